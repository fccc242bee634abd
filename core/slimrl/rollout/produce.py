"""One group from prompt to scores: the generator fills each sample, the scorer scores them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from slimrl.errors import SlimrlError
from slimrl.protocols import EngineClient, Generate
from slimrl.types import Group, Sample, SamplingParams, Status

logger = logging.getLogger(__name__)

Score = Callable[[Group], Awaitable[None]]


async def produce(
    group: Group, generate: Generate, engine: EngineClient, score: Score, sampling: SamplingParams
) -> Group:
    """Generate and score all samples of a group; a sample that fails is data, with its reason."""
    await asyncio.gather(*(_generate(sample, generate, engine, sampling) for sample in group))
    await score(group)
    return group


async def _generate(sample: Sample, generate: Generate, engine: EngineClient, sampling: SamplingParams) -> None:
    started = time.perf_counter()
    try:
        returned = await generate(sample, replace(sampling, sampling_seed=sample.seed), engine)
        if returned is not sample:
            raise TypeError(f"the generator returned {type(returned).__name__}, not the sample it was given")
    except Exception as error:  # a plugin's edge: whatever it raised is this sample's failure, and says why
        sample.status = Status.FAILED
        sample.reason = str(error) if isinstance(error, SlimrlError) else f"{type(error).__name__}: {error}"
        logger.warning("sample %d failed: %s", sample.sample_id, sample.reason)
    sample.generate_seconds = time.perf_counter() - started
