"""Scoring a file: samples stream in, outcomes stream out in the same order, a bounded window is in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from slimrl.scoring.outcome_file import OutcomeFile
from slimrl.scoring.sample_file import SampleFile
from slimrl.scoring.scorer import Scorer
from slimrl.types import Group, Sample, Score

MAX_IN_FLIGHT: Final = 256
"""Lines; more would only wait for a worker, and a remote reward's deadline runs while they wait."""
MAX_BYTES_IN_FLIGHT: Final = 64 << 20


async def score_file(source: SampleFile, outcomes: OutcomeFile, scorer: Scorer, told: Callable[[int], None]) -> None:
    """Score every line that has no outcome yet; `told` is called with the number of outcomes written.

    Memory does not grow with the file. Whenever this waits, everything that is finished has been handed to the
    system.
    """
    window: deque[tuple[int, asyncio.Task[Score] | Score]] = deque()
    num_bytes = 0

    async def write_oldest() -> None:
        nonlocal num_bytes
        size, outcome = window[0]
        if isinstance(outcome, asyncio.Task):
            if not outcome.done():
                outcomes.flush()
                told(outcomes.num_lines)
                await asyncio.wait([outcome])  # Ctrl-C ends the wait, whatever the task makes of a cancellation
            outcome = outcome.result()
        window.popleft()
        num_bytes -= size
        outcomes.write(outcome)

    try:
        for _, size, sample in source.samples(outcomes.num_lines):
            while window and (len(window) == MAX_IN_FLIGHT or num_bytes + size > MAX_BYTES_IN_FLIGHT):
                await write_oldest()
            outcome = asyncio.create_task(_score(scorer, sample)) if isinstance(sample, Sample) else sample
            window.append((size, outcome))
            num_bytes += size
        while window:
            await write_oldest()
    finally:
        outcomes.flush()
        running = [task for _, task in window if isinstance(task, asyncio.Task)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    told(outcomes.num_lines)


async def _score(scorer: Scorer, sample: Sample) -> Score:
    await scorer.score(Group(sample.group_id, [sample]))
    assert sample.score is not None, "a scorer scores every sample"
    return sample.score
