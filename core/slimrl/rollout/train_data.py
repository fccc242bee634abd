"""slime's train data, a dictionary of lists with one entry a sample, as a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from slimrl.registry.run_hook import RunHookFunction
from slimrl.rollout.batch import advantages_of
from slimrl.types import Sample, TrainBatch

REQUIRED: Final = ("tokens", "response_lengths", "rewards", "loss_masks")
READ: Final = (*REQUIRED, "rollout_log_probs", "sample_indices", "rollout_ids")
TEACHERS: Final = "teacher_log_probs"
"""What is read where a teacher behind an engine was asked."""
LOGGED: Final = (
    "raw_reward",
    "truncated",
    "metadata",
    "rollout_mask_sums",
    "total_lengths",
    "round_number",
    "source_names",
)
"""Keys of slime's that training does not depend on."""


def batch_of(hook: RunHookFunction, data: Any, samples: Sequence[Sample], step: int) -> TrainBatch:  # Any: a user's
    """The batch; RolloutError names the key that is missing, of another length, or that nothing here reads.

    `samples` are those that the function was given. The rewards are the advantages: what slime's estimators make of
    rewards was made of them before.
    """
    if not isinstance(data, Mapping):
        raise hook.broke(f"returned {type(data).__name__}; it returns a dictionary with {', '.join(REQUIRED)}")
    if missing := [key for key in REQUIRED if key not in data]:
        raise hook.broke(f"returned no {', '.join(map(repr, missing))}; it needs {', '.join(REQUIRED)}")
    has_teacher = any(sample.teacher_log_probs for sample in samples)
    read = (*READ, TEACHERS) if has_teacher else READ
    if unread := [key for key in data if key not in read + LOGGED]:
        raise hook.broke(f"returned {', '.join(map(repr, unread))}, which nothing here reads; leave it out")
    count = len(data["tokens"])
    for key in read:
        if data.get(key) is not None and len(data[key]) != count:
            raise hook.broke(f"returned {key!r} with {len(data[key])} entries for {count} in 'tokens'")
    if data.get("sample_indices") is None and count != len(samples):
        raise hook.broke(
            f"returned {count} entries of {len(samples)} samples; say which they are with 'sample_indices'"
        )
    by_id = {sample.sample_id: sample for sample in samples}
    ids = [int(one) for one in data.get("sample_indices") or by_id]
    if unknown := [one for one in ids if one not in by_id]:
        raise hook.broke(f"returned 'sample_indices' with {unknown[0]}, which is no sample of this batch")
    own = [by_id[one] for one in ids]
    lengths = [int(length) for length in data["response_lengths"]]
    masks = _of_responses(hook, "loss_masks", data["loss_masks"], lengths, own)
    for mask, sample in zip(masks, own, strict=True):
        if not np.isin(mask, (0, 1)).all():  # a part of one would become 0
            raise hook.broke(f"returned 'loss_masks' with other values than 0 and 1 for sample {sample.sample_id}")
    log_probs = data.get("rollout_log_probs")
    log_probs = [sample.log_probs for sample in own] if log_probs is None else log_probs
    teachers = None
    if has_teacher:
        said = data.get(TEACHERS)
        said = [sample.teacher_log_probs for sample in own] if said is None else said
        said = _of_responses(hook, TEACHERS, said, lengths, own)
        teachers = np.fromiter(chain.from_iterable(said), np.float32)
    advantages = advantages_of(hook, data["rewards"], count)
    rollout_ids = data.get("rollout_ids")
    return TrainBatch(
        step=step,
        tokens=np.fromiter(chain.from_iterable(data["tokens"]), np.int32),
        prompt_lengths=np.array([len(t) - n for t, n in zip(data["tokens"], lengths, strict=True)], np.int32),
        response_lengths=np.array(lengths, np.int32),
        loss_mask=np.fromiter(chain.from_iterable(masks), np.uint8),
        log_probs=np.fromiter(
            chain.from_iterable(_of_responses(hook, "rollout_log_probs", log_probs, lengths, own)), np.float32
        ),
        weight_versions=np.concatenate([_versions(sample, n) for sample, n in zip(own, lengths, strict=True)])
        if own
        else np.zeros(0, np.int32),
        rewards=advantages,
        group_ids=np.array([sample.group_id for sample in own], np.int64),
        rollout_ids=np.array(ids if rollout_ids is None else rollout_ids, np.int64),
        sample_ids=np.array(ids, np.int64),
        advantages=advantages,
        teacher_log_probs=teachers,
    )


def _of_responses(
    hook: RunHookFunction, key: str, values: Sequence[Any], lengths: Sequence[int], samples: Sequence[Sample]
) -> Sequence[Any]:  # Any: lists or arrays of numbers
    for entry, length, sample in zip(values, lengths, samples, strict=True):
        if entry is None or len(entry) != length:
            said = "nothing" if entry is None else f"{len(entry)} entries"
            raise hook.broke(
                f"returned {key!r} with {said} for the {length} response tokens of sample {sample.sample_id}"
            )
    return values


def _versions(sample: Sample, length: int) -> np.ndarray[Any, np.dtype[np.int32]]:  # Any: its shape
    """The sample's own where the response is as long as it was, else its oldest."""
    if len(sample.weight_versions) == length:
        return np.array(sample.weight_versions, np.int32)
    return np.full(length, min(sample.weight_versions, default=0), np.int32)
