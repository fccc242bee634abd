"""A gate before the engine: once it is shut nothing new is generated, and what is in flight comes back as it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from slimrl.errors import EngineError
from slimrl.protocols import EngineClient
from slimrl.types import Completion, SamplingParams

logger = logging.getLogger(__name__)

NOTHING: Final = Completion([], [], [], "", "abort", finish_message="the batch was full")
MAX_ABORT_S: Final = 30.0
"""How long the engine has to give back what it was told to end."""
FIRST_WAIT_S: Final = 0.1


class Engine(EngineClient, Protocol):
    """A client that can end every request."""

    async def abort_all(self) -> None:
        """End every request; each comes back with what it had, with finish_reason "abort"."""
        ...


class Gate:
    """Implements EngineClient for one rollout; at most `concurrency` requests are with the engine.

    The others wait here and not in the client, so that none of them is sent once the gate is shut.
    """

    def __init__(self, engine: Engine, concurrency: int) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(concurrency)
        self._in_flight = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.is_shut = False

    def __getattr__(self, name: str) -> Any:  # Any: whatever else the engine's client offers a generator
        return getattr(self._engine, name)

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        """One response; an empty one with finish_reason "abort" when the gate is shut.

        Raises EngineError when the engine ended it although nobody asked for that.
        """
        if self.is_shut:
            return NOTHING
        async with self._slots:
            if self.is_shut:
                return NOTHING
            self._in_flight += 1
            self._empty.clear()
            try:
                completion = await self._engine.generate(input_ids, sampling, request_id=request_id)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._empty.set()
        if completion.finish_reason == "abort" and not self.is_shut:
            raise EngineError(f"the engine ended a request by itself: {completion.finish_message or 'no reason given'}")
        return completion

    async def shut(self) -> None:
        """Send nothing more, and end what is in flight; returns when all of it is back, or after `MAX_ABORT_S`."""
        self.is_shut = True
        deadline = asyncio.get_running_loop().time() + MAX_ABORT_S
        wait_s = FIRST_WAIT_S
        await self._engine.abort_all()  # what a generator asked the engine for by itself is not counted here
        while self._in_flight:
            # A request that was on its way to the engine is not there to be ended: ask again.
            try:
                await asyncio.wait_for(self._empty.wait(), wait_s)
            except TimeoutError:
                if asyncio.get_running_loop().time() > deadline:
                    logger.warning("%d requests did not end within %.0f s", self._in_flight, MAX_ABORT_S)
                    return
                wait_s = min(2 * wait_s, 1.0)
                await self._engine.abort_all()
