"""Groups to the packed arrays that a trainer takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from slimrl.types import Group, Sample, TrainBatch

T = TypeVar("T", bound=np.generic)


def trainable(groups: Iterable[Group]) -> list[Sample]:
    """The samples that carry a score and at least one token, in order of sample id."""
    samples = (sample for group in groups for sample in group)
    return sorted((s for s in samples if s.value is not None and s.tokens), key=lambda s: s.sample_id)


def make_batch(step: int, groups: Sequence[Group]) -> TrainBatch:
    """Pack the scored samples of `groups`; a sample without a score is left out, never a zero."""
    samples = trainable(groups)
    return TrainBatch(
        step=step,
        tokens=_flat(chain.from_iterable((s.prompt_tokens, s.tokens) for s in samples), np.int32),
        prompt_lengths=np.array([len(s.prompt_tokens) for s in samples], np.int32),
        response_lengths=np.array([len(s.tokens) for s in samples], np.int32),
        loss_mask=_flat((s.loss_mask for s in samples), np.uint8),
        log_probs=_flat((s.log_probs for s in samples), np.float32),
        weight_versions=_flat((s.weight_versions for s in samples), np.int32),
        rewards=np.array([s.value for s in samples], np.float32),
        group_ids=np.array([s.group_id for s in samples], np.int64),
        rollout_ids=np.array([s.rollout_id for s in samples], np.int64),
        sample_ids=np.array([s.sample_id for s in samples], np.int64),
    )


def _flat(parts: Iterable[Sequence[float]], dtype: type[T]) -> NDArray[T]:
    return np.fromiter(chain.from_iterable(parts), dtype)
