"""Quick rewards on the event loop, in slices so short that everything else goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from slimrl.scoring.cache import ScoreCache
from slimrl.scoring.calling import compute
from slimrl.scoring.served import Served
from slimrl.scoring.wire import Call, for_reward
from slimrl.types import Sample, Score

logger = logging.getLogger(__name__)

MAX_CHARS: Final = 16_000
"""A longer text goes to a worker: what is linear in it would take milliseconds."""
SLICE_S: Final = 0.002
"""The event loop turns after this long."""
SLOW_S: Final = 0.01
"""A reward that took longer once is called in a worker from then on, whatever it promised."""

Elsewhere = Callable[[Sample], Awaitable[list[Score]]]
"""Score a sample in a worker."""


def is_short(sample: Sample) -> bool:
    """Whether a quick reward is quick on it: what it may look through is no long text."""
    left, waiting = MAX_CHARS, [sample.response, sample.label, sample.metadata]
    while waiting and left >= 0:
        value: object = waiting.pop()
        left -= len(value) if isinstance(value, str | list | tuple | Mapping) else 0
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()] if left >= 0 else []
        elif isinstance(value, list | tuple):
            waiting += value if left >= 0 else []
    return left >= 0


class Inline:
    """Calls rewards here, for one group at a time: the slices of several would add up to a long one."""

    def __init__(self, cache: ScoreCache, *, value_required: bool) -> None:
        self._cache = cache
        self._value_required = value_required
        self._turn = asyncio.Lock()

    async def score(
        self,
        served: Served,
        keys: tuple[str, ...],
        samples: Sequence[tuple[Sample, bytes | None]],
        elsewhere: Elsewhere,
    ) -> list[Score]:
        """Scores of samples, each with its key in the cache."""
        scores = []
        async with self._turn:
            began = time.perf_counter()
            for sample, cache_key in samples:
                if time.perf_counter() - began > SLICE_S:
                    await asyncio.sleep(0)
                    began = time.perf_counter()
                remembered = self._cache.get(cache_key) if cache_key else None  # the same text, just before
                if remembered is not None:
                    scores.append(replace(remembered, seconds=0.0))
                    continue
                score = self._call(served, keys, sample)
                if score is None:
                    (score,) = await elsewhere(sample)
                if cache_key:
                    self._cache.put(cache_key, score)
                scores.append(score)
        return scores

    def _call(self, served: Served, keys: tuple[str, ...], sample: Sample) -> Score | None:
        """None where the reward has lost the right to run here."""
        if served.inline is None:
            return None
        call = Call(0, served.number, [for_reward(sample)], False, keys, self._value_required, served.timeout_s)
        started = time.thread_time()
        (score,) = compute(served.inline, call)
        cpu_s = time.thread_time() - started
        if cpu_s > SLOW_S:
            served.inline = None
            logger.warning(
                "reward %s took %.0f ms where it may run on the event loop; it runs in a worker from now on",
                served.resolved.name,
                cpu_s * 1000,
            )
        return score
