"""A generator that computes, or waits without `await`, keeps every other sample waiting: it is told, once."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final

from slimrl.protocols import EngineClient, Generate
from slimrl.types import Sample, SamplingParams

logger = logging.getLogger(__name__)

COMPUTES_S: Final = 0.1
"""CPU seconds in one stretch that are too many."""
WAITS_S: Final = 1.0
"""Seconds in one stretch that are too many, whatever was done in them: a busy machine makes any stretch longer."""

OnBlocked = Callable[[str, float], None]
"""Told of a generator by its reference, and of the seconds in which nothing else went on."""


class BlockingWatch:
    """Measures the stretches of generators between one wait and the next, at about a microsecond each."""

    def __init__(self, tell: OnBlocked) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def watched(self, generate: Generate, name: str) -> Generate:
        """The same generator, measured."""

        async def generate_watched(
            sample: Sample, sampling: SamplingParams, engine: EngineClient, /
        ) -> Sample | Sequence[Sample]:
            if name in self._told:
                return await generate(sample, sampling, engine)
            stretches = _Stretches(generate(sample, sampling, engine), lambda seconds: self._note(name, seconds))
            returned: Sample | Sequence[Sample] = await stretches
            return returned

        return generate_watched

    def _note(self, name: str, seconds: float) -> None:
        if name not in self._told:
            self._told.add(name)
            logger.warning(
                "generator %s kept the event loop for %.0f ms, in which no other sample went on; "
                "compute in a thread (asyncio.to_thread) or a process, and wait with await",
                name,
                seconds * 1000,
            )
            self._tell(name, seconds)


class _Stretches:
    """Awaits something as `await` does, and notes a stretch that took too long."""

    def __init__(self, awaitable: Awaitable[Any], note: Callable[[float], None]) -> None:
        self._awaitable = awaitable
        self._note = note

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()  # a coroutine's or a future's: each can be sent and thrown into
        go_on, given = steps.send, None
        while True:
            began, began_cpu = time.perf_counter(), time.thread_time()
            try:
                waits_for = go_on(given)
            except StopIteration as stop:
                return stop.value
            finally:
                seconds = time.perf_counter() - began
                if seconds > COMPUTES_S and (seconds > WAITS_S or time.thread_time() - began_cpu > COMPUTES_S):
                    self._note(seconds)
            try:
                go_on, given = steps.send, (yield waits_for)
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:  # a cancellation, or what a future raised: it is for the generator
                go_on, given = steps.throw, error
