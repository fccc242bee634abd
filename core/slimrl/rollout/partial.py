"""Partial rollout: a sample that was cut off goes on from its tokens, under the weights that it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimrl.data.source import sample_seed
from slimrl.protocols import EngineClient, Generate
from slimrl.rollout.gate import Gate
from slimrl.rollout.produce import Score
from slimrl.types import Group, Sample, SamplingParams, Status

DONE = (Status.COMPLETED, Status.TRUNCATED)


@dataclass(frozen=True)
class PartialRollout:
    """What of a group is generated and scored where a group may come with a part of its samples, or of their tokens."""

    generator: Generate
    score_group: Score
    gate: Gate
    version: int
    """Of the weights that the engine serves."""
    mask_offpolicy: bool = False
    """Tokens of older weights leave the loss of a sample that goes on."""
    decode: Callable[[Sequence[int]], str] | None = None
    """The text of tokens: what two requests return may meet in the middle of a character."""

    async def generate(
        self, sample: Sample, sampling: SamplingParams, engine: EngineClient
    ) -> Any:  # Any: what the generator returned, one sample or a fan-out's
        """Finish one sample, or bring it on until the gate is shut; a finished one is left as it is."""
        if sample.status in DONE:
            return sample
        begun = len(sample.tokens)
        sample.status, sample.reason = Status.PENDING, ""
        if begun and sampling.sampling_seed is not None:
            # the engine's noise depends on the seed and the token's place in the reply: the same would come again
            sampling = replace(sampling, sampling_seed=sample_seed(sampling.sampling_seed, begun))
        try:
            found = await self.generator(sample, sampling, engine)
        except Exception as error:
            if not self.gate.is_shut:
                raise
            sample.status, sample.reason = Status.ABORTED, f"cut off: {error}"  # a tool or generator that was ended
            return sample
        if begun and found is sample and sample.status in DONE:
            if all(sample.loss_mask) and self.decode is not None:  # the text is all the model's
                sample.response = self.decode(sample.tokens)
            if self.mask_offpolicy:
                mask_older(sample, self.version)
        return found

    async def score(self, group: Group) -> None:
        """Score a group that is complete; one that was cut off is scored when it is."""
        if not (self.gate.is_shut and any(sample.status is Status.ABORTED for sample in group)):
            await self.score_group(group)


def mask_older(sample: Sample, version: int) -> None:
    """Take the tokens of weights older than `version` out of the loss."""
    sample.loss_mask = [
        mask if own >= version else 0 for mask, own in zip(sample.loss_mask, sample.weight_versions, strict=True)
    ]
