"""One group from prompt to scores: the generator fills each sample, the scorer scores them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final

from slimrl.errors import EngineError, EnginesLostError, SlimrlError
from slimrl.protocols import EngineClient, Generate
from slimrl.rollout.failures import GENERATOR, failure_kind
from slimrl.types import Group, Sample, SamplingParams, Status

logger = logging.getLogger(__name__)

Score = Callable[[Group], Awaitable[None]]

SIBLING: Final = 2**40
"""From one sibling's sample id to the next one's: beyond every position in the stream of samples."""


async def produce(
    group: Group, generate: Generate, engine: EngineClient, score: Score, sampling: SamplingParams, retries: int = 0
) -> Group:
    """Generate and score all samples of a group; a sample that fails `retries` times more is data, with its reason."""

    async def fill(sample: Sample) -> None:
        found = await _generate(sample, generate, engine, sampling, retries)
        # at once, not when all are there: a group that is cut off must not lose a part of a fan-out
        group.samples = [kept for one in group for kept in (found if one is sample else [one])]

    await asyncio.gather(*(fill(sample) for sample in group))
    await score(group)
    return group


async def _generate(
    sample: Sample, generate: Generate, engine: EngineClient, sampling: SamplingParams, retries: int
) -> list[Sample]:
    started = time.perf_counter()
    # The seed stays: another one would leave out the replies that a generator fails on, and bias what is learned.
    sampling = replace(_within_context(sample, sampling), sampling_seed=sample.seed)
    if sampling.max_new_tokens <= 0:
        sample.status = Status.TRUNCATED
        return [sample]
    before = _State.of(sample) if retries else None
    while True:
        found, may_retry = await _try(sample, generate, engine, sampling)
        if not (may_retry and before is not None and retries):
            break
        retries -= 1
        before.restore(sample)
    for one in found:
        one.generate_seconds = time.perf_counter() - started
    return found


def _within_context(sample: Sample, sampling: SamplingParams) -> SamplingParams:
    """With as many new tokens at most, in the whole response, as the sample's prompt leaves of the context."""
    if sampling.max_context_len is None:
        return sampling
    room = min(sampling.max_new_tokens, sampling.max_context_len - len(sample.prompt_tokens))
    return replace(sampling, max_new_tokens=room, min_new_tokens=min(room, sampling.min_new_tokens))


async def _try(
    sample: Sample, generate: Generate, engine: EngineClient, sampling: SamplingParams
) -> tuple[list[Sample], bool]:
    """Generate once: the samples that it gave, and whether another try may go better."""
    try:
        returned = await generate(sample, sampling, engine)
        found = generated(sample, returned)
    except EnginesLostError:  # nothing can be generated any more: no failure of this sample
        raise
    except Exception as error:  # a plugin's edge: whatever it raised is this sample's failure, and says why
        sample.status = Status.FAILED
        sample.failure = failure_kind(error)
        sample.reason = str(error) if isinstance(error, SlimrlError) else f"{type(error).__name__}: {error}"
        logger.warning("sample %d failed: %s", sample.sample_id, sample.reason)
        return [sample], not isinstance(error, EngineError)  # the client has tried again what was worth it
    has_failed = [one for one in found if one.status is Status.FAILED]
    for one in has_failed:
        one.failure = one.failure or GENERATOR
    return found, bool(has_failed)


def generated(sample: Sample, returned: object) -> list[Sample]:
    """What a generator gave for a sample: itself, or a fan-out made one rollout of the sample's group.

    Raises TypeError or ValueError for anything else.
    """
    if returned is sample:
        _check_aligned(sample, sample)
        return [sample]
    if not isinstance(returned, list | tuple) or not all(isinstance(one, Sample) for one in returned):
        raise TypeError(
            f"the generator returned {type(returned).__name__}, neither the sample it was given nor samples"
        )
    if not returned or len({id(one) for one in returned}) < len(returned):
        raise ValueError("the generator returned no sample, or the same one twice")
    if returned[0].prompt_tokens != sample.prompt_tokens:
        raise ValueError("the first sample that the generator returned is not of the prompt that it was given")
    for one in returned:
        _check_aligned(one, sample)
    first_id = sample.sample_id
    for place, one in enumerate(returned):
        one.group_id, one.rollout_id, one.sample_id = sample.group_id, sample.rollout_id, first_id + place * SIBLING
        one.seed = sample.seed
    return list(returned)


def misaligned(sample: Sample) -> str:
    """What of a sample's response is not one number a token, or has no prompt before it; empty where all is well."""
    lengths = {
        "tokens": len(sample.tokens),
        "log_probs": len(sample.log_probs),
        "loss_mask": len(sample.loss_mask),
        "weight_versions": len(sample.weight_versions),
    }
    if len(set(lengths.values())) > 1:
        return "with " + ", ".join(f"{length} {name}" for name, length in lengths.items())
    if not set(sample.loss_mask) <= {0, 1}:
        return "with other values than 0 and 1 in its loss_mask"
    if not _are_finite(sample.log_probs):
        return "with log_probs that are not all finite numbers"
    return "without prompt tokens" if sample.tokens and not sample.prompt_tokens else ""


def _are_finite(numbers: list[float]) -> bool:
    try:
        return math.isfinite(math.fsum(numbers))
    except (TypeError, ValueError, OverflowError):  # None, or infinities of both signs
        return False


def _check_aligned(one: Sample, given: Sample) -> None:
    if problem := misaligned(one):
        # `given` stays in the group as what failed
        given.tokens, given.log_probs, given.loss_mask, given.weight_versions = [], [], [], []
        raise ValueError(f"the generator returned sample {one.sample_id} {problem}")


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
        sample.response, sample.status, sample.reason, sample.failure = self.response, self.status, "", ""
        sample.metadata = deepcopy(self.metadata)
