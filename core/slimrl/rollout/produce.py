"""One group from prompt to scores: the generator fills each sample, the scorer scores them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from slimrl.errors import EngineError, SlimrlError
from slimrl.protocols import EngineClient, Generate
from slimrl.types import Group, Sample, SamplingParams, Status

logger = logging.getLogger(__name__)

Score = Callable[[Group], Awaitable[None]]


async def produce(
    group: Group, generate: Generate, engine: EngineClient, score: Score, sampling: SamplingParams, retries: int = 0
) -> Group:
    """Generate and score all samples of a group; a sample that fails `retries` times more is data, with its reason."""
    await asyncio.gather(*(_generate(sample, generate, engine, sampling, retries) for sample in group))
    await score(group)
    return group


async def _generate(
    sample: Sample, generate: Generate, engine: EngineClient, sampling: SamplingParams, retries: int
) -> None:
    started = time.perf_counter()
    # The seed stays: another one would leave out the replies that a generator fails on, and bias what is learned.
    sampling = replace(sampling, sampling_seed=sample.seed)
    before = _State.of(sample) if retries else None
    while not await _is_settled(sample, generate, engine, sampling) and before is not None and retries:
        retries -= 1
        before.restore(sample)
    sample.generate_seconds = time.perf_counter() - started


async def _is_settled(sample: Sample, generate: Generate, engine: EngineClient, sampling: SamplingParams) -> bool:
    """Generate once; whether that is the end of it: it went well, or another try would fail alike."""
    try:
        returned = await generate(sample, sampling, engine)
        if returned is not sample:
            raise TypeError(f"the generator returned {type(returned).__name__}, not the sample it was given")
    except Exception as error:  # a plugin's edge: whatever it raised is this sample's failure, and says why
        sample.status = Status.FAILED
        sample.reason = str(error) if isinstance(error, SlimrlError) else f"{type(error).__name__}: {error}"
        logger.warning("sample %d failed: %s", sample.sample_id, sample.reason)
        return isinstance(error, EngineError)  # the client has tried again what was worth it
    return sample.status is not Status.FAILED


@dataclass(frozen=True, slots=True)
class _State:
    """What a generator may have changed of a sample, as it was before."""

    tokens: list[int]
    log_probs: list[float]
    loss_mask: list[int]
    weight_versions: list[int]
    response: str
    status: Status
    metadata: dict[str, Any]  # Any: a row's JSON values

    @classmethod
    def of(cls, sample: Sample) -> _State:
        return cls(
            list(sample.tokens),
            list(sample.log_probs),
            list(sample.loss_mask),
            list(sample.weight_versions),
            sample.response,
            sample.status,
            deepcopy(sample.metadata),
        )

    def restore(self, sample: Sample) -> None:
        sample.tokens, sample.log_probs = list(self.tokens), list(self.log_probs)
        sample.loss_mask, sample.weight_versions = list(self.loss_mask), list(self.weight_versions)
        sample.response, sample.status, sample.reason = self.response, self.status, ""
        sample.metadata = deepcopy(self.metadata)
