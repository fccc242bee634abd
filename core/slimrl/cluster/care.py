"""Care for engines that a pool has lost, given by the actors of the run."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from slimrl.errors import EngineError, SlimrlError


class Care:
    """Implements EngineCare: the engines' actor starts one again, the trainer's gives it weights between two steps."""

    def __init__(self, engines: Any | None, trainer: Any) -> None:  # handles of Ray actors, which have no types
        self._engines = engines
        self._trainer = trainer
        self.can_restart = engines is not None
        """Engines that the run did not start have no actor."""

    async def restart(self, index: int) -> str:
        """Start an engine again; its URL."""
        assert self._engines is not None, "can_restart says so"
        url: str = await _answer(self._engines.restart.remote(index))
        return url

    async def send_weights(self, index: int, url: str) -> int:
        """Give an engine the trainer's weights; their version."""
        version: int = await _answer(self._trainer.send_weights.remote(index, url))
        return version


async def _answer(reference: Awaitable[Any]) -> Any:
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        cause = error.cause
        raise EngineError(str(cause) if isinstance(cause, SlimrlError) else repr(cause)) from error
    except RayActorError as error:
        raise EngineError(f"a process of the run died: {error}") from error
