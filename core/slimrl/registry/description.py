"""One plugin described: what it is, how it is called, and how to use it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from slimrl.edge import importing
from slimrl.errors import PluginError
from slimrl.registry.adapt import is_async_callable
from slimrl.registry.kinds import SPECS
from slimrl.registry.options import Options
from slimrl.registry.resolve import Resolved
from slimrl.traits import traits_of


@dataclass(frozen=True)
class Description:
    """What can be said of a plugin without a run."""

    reference: str
    """What to write; it means the same everywhere the package is installed."""
    shape: str
    """How it is called: made by a factory, or a function of our signature, slime's, TRL's or verl's."""
    signature: str
    is_async: bool | None
    """None where it could not be made."""
    traits: dict[str, Any]
    """Of a reward: what it promises and needs; empty where it could not be made."""
    doc: str
    file: str | None
    sha256: str
    use: tuple[str, ...]
    """Flags that use it."""
    problem: str
    """Why it cannot be made with default options; empty where it can."""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def describe(resolved: Resolved, option_types: Iterable[type], configuration: Iterable[object]) -> Description:
    """Make the plugin once with default options and read what it says of itself."""
    made: Any = None
    problem = ""
    try:
        with importing(resolved.reference):
            made = resolved.make(Options(configuration).with_defaults(option_types))
    except PluginError as error:
        problem = str(error)
    # A path names the function itself; behind an adapter its own signature and words are the ones to show.
    function = resolved.target if resolved.target is not None else made
    return Description(
        reference=resolved.reference,
        shape=resolved.shape,
        signature=_signature(function),
        is_async=is_async_callable(function) if function is not None else None,
        traits=asdict(traits_of(made)) if resolved.kind == "reward" and made is not None else {},
        doc=_doc(resolved, function),
        file=None if resolved.file is None else str(resolved.file),
        sha256=resolved.file_hash,
        use=_usage(resolved),
        problem=problem,
    )


def _usage(resolved: Resolved) -> tuple[str, ...]:
    if resolved.kind != "reward":
        flag = SPECS[resolved.kind].flag
        return (f"{flag} {resolved.name if resolved.distribution else resolved.reference}",) if flag else ()
    if resolved.distribution is None:
        return (f"--custom-rm-path {resolved.reference}", f"--reward {resolved.reference}=1.0")
    return (f"--rm-type {resolved.name}", f"--reward {resolved.name}=1.0")


def _signature(function: Any) -> str:  # Any: a plugin of any kind
    if not callable(function):
        return ""
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return ""


def _doc(resolved: Resolved, function: Any) -> str:  # Any: as above
    """A path's function speaks for itself; of an offered name the module's docstring is written for its users."""
    own = inspect.getdoc(function) if inspect.isroutine(function) else None
    module = inspect.getdoc(sys.modules.get(resolved.module))
    return (own or module or "") if resolved.distribution is None else (module or own or "")
