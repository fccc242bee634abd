"""A function of a run that a flag names: how it is called, and what is said when it breaks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slimrl.edge import last_line
from slimrl.errors import RolloutError, SlimrlError
from slimrl.protocols import PluginOptions
from slimrl.registry.kinds import SPECS
from slimrl.registry.resolve import Resolved
from slimrl.registry.slime_arguments import SlimeArguments


@dataclass(frozen=True)
class RunHookFunction:
    """A resolved hook of one process."""

    resolved: Resolved
    options: PluginOptions

    @property
    def is_slime(self) -> bool:
        """Whether it has slime's parameters, `args` among them."""
        return self.resolved.shape == "slime"

    @cached_property
    def args(self) -> SlimeArguments:
        """slime's `args`."""
        return SlimeArguments(self.options)

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        made: Callable[..., Any] = self.resolved.make(self.options)
        return made

    @cached_property
    def name(self) -> str:
        """As messages call it."""
        return f"{SPECS[self.resolved.kind].noun} {self.resolved.reference!r}"

    @cached_property
    def keywords(self) -> frozenset[str]:
        """What it takes by keyword."""
        by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if p.kind in by_keyword)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:  # Any: as many contracts as there are kinds
        """Call a plain function; RolloutError names it and what it raised."""
        return self.guarded(self.function, *arguments, **keywords)

    def guarded(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:  # Any: as above
        """Call what the hook made; RolloutError names the hook and what was raised."""
        try:
            return function(*arguments, **keywords)
        except Exception as error:
            raise self._raised(error) from error

    async def wait(self, *arguments: Any, **keywords: Any) -> Any:  # Any: as above
        """Call a function that may be `async def`; RolloutError names it and what it raised."""
        try:
            returned = self.function(*arguments, **keywords)
            return await returned if self.resolved.is_async else returned
        except Exception as error:
            raise self._raised(error) from error

    def broke(self, said: object) -> RolloutError:
        """The error of a hook that broke its contract."""
        return RolloutError(f"{self.name} {said}")

    def _raised(self, error: Exception) -> RolloutError:
        if isinstance(error, RolloutError):
            return error
        said = str(error) if isinstance(error, SlimrlError) else last_line(error)
        return self.broke(f"raised {said}")
