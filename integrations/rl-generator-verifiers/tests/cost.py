"""`python tests/cost.py`: what an episode of one turn costs, with an engine that answers at once."""

from __future__ import annotations

import asyncio
import resource
import sys
import time

import playing

from slimrl import SamplingParams, Status
from slimrl.testing import FakeEngine, make_sample


async def play(count: int) -> None:
    """As many episodes at once."""
    engine = FakeEngine("It is 7.")
    origin = {"verifiers": {"index": 0}}
    samples = [make_sample("", None, origin, status=Status.PENDING, sample_id=place) for place in range(count)]
    await asyncio.gather(*(GENERATE(sample, SamplingParams(max_new_tokens=50), engine) for sample in samples))


GENERATE = playing.make()

for count in (4, 256, 256, 256):
    cpu, wall = time.process_time(), time.perf_counter()
    asyncio.run(play(count))
    each = (time.process_time() - cpu) / count * 1e3
    rate = count / (time.perf_counter() - wall)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{count} at once: {each:.1f} ms CPU a sample, {rate:.0f} a second, {memory:.0f} MiB\n")
