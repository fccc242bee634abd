"""Groups to the packed arrays that a trainer takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from slimrl.errors import RolloutError
from slimrl.registry.run_hook import RunHookFunction
from slimrl.types import Group, Sample, TrainBatch

T = TypeVar("T", bound=np.generic)

OF_RESPONSES = ("loss_mask", "log_probs", "weight_versions")
OPTIONAL = ("teacher_log_probs",)
OF_SAMPLES = ("response_lengths", "rewards", "group_ids", "rollout_ids", "sample_ids")


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
        teacher_log_probs=_teachers(samples),
    )


def _teachers(samples: Sequence[Sample]) -> NDArray[np.float32] | None:
    """A teacher's log-probs; RolloutError where one is missing, None where no sample was shown to a teacher."""
    if not any(s.teacher_log_probs for s in samples):
        return None
    for s in samples:
        if len(s.teacher_log_probs) != len(s.tokens):
            raise RolloutError(
                f"sample {s.sample_id} has {len(s.tokens)} tokens and a teacher's log-probs of "
                f"{len(s.teacher_log_probs)}: its tokens were changed after it was scored"
            )
    return _flat((s.teacher_log_probs for s in samples), np.float32)


def check_batch(batch: object) -> str:
    """What does not hold together in a batch that a function of the user's made; empty where all does."""
    if not isinstance(batch, TrainBatch):
        return f"{type(batch).__name__}; it returns a TrainBatch"
    count = len(batch.prompt_lengths)
    lengths = {name: len(getattr(batch, name)) for name in OF_SAMPLES}
    if batch.advantages is not None:
        lengths["advantages"] = len(batch.advantages)
    for name, length in lengths.items():
        if length != count:
            return f"a batch whose {name} has {length} entries for {count} samples"
    num_tokens = int(batch.response_lengths.sum())
    for name in (*OF_RESPONSES, *(name for name in OPTIONAL if getattr(batch, name) is not None)):
        if len(getattr(batch, name)) != num_tokens:
            return f"a batch whose {name} has {len(getattr(batch, name))} entries for {num_tokens} response tokens"
    if len(batch.tokens) != num_tokens + int(batch.prompt_lengths.sum()):
        return f"a batch with {len(batch.tokens)} tokens where the lengths of prompts and responses say otherwise"
    if count and min(batch.prompt_lengths.min(), batch.response_lengths.min()) < 1:
        return "a batch with an empty prompt or response; each has a token at least"
    if not np.isin(batch.loss_mask, (0, 1)).all():
        return "a batch whose loss_mask has other values than 0 and 1"
    if batch.advantages is not None and not np.isfinite(batch.advantages).all():
        return "a batch with advantages that are not finite"
    return ""


def advantages_of(hook: RunHookFunction, values: Any, count: int) -> NDArray[np.float32]:  # Any: a user's list
    """One finite number a sample from what a function of the user's returned."""
    try:
        found = np.array([float(value) for value in values], np.float32)
    except (TypeError, ValueError) as error:
        raise hook.broke(f"returned something else than a list of numbers: {error}") from error
    if len(found) != count:
        raise hook.broke(f"returned {len(found)} numbers for {count} samples")
    if not np.isfinite(found).all():
        raise hook.broke(
            f"returned a number that is not finite for sample {int(np.flatnonzero(~np.isfinite(found))[0])}"
        )
    return found


def _flat(parts: Iterable[Sequence[float]], dtype: type[T]) -> NDArray[T]:
    return np.fromiter(chain.from_iterable(parts), dtype)
