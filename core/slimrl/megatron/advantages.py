"""The advantage of every response token: the estimator's, or what functions of the user's make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimrl.algorithms.whiten import moments, whiten
from slimrl.errors import TrainError
from slimrl.estimator import Estimate
from slimrl.megatron.distillation import Distillation
from slimrl.megatron.known import Known
from slimrl.registry.run_hook import RunHookFunction
from slimrl.types import AdvantageInput, TrainBatch


@dataclass(frozen=True)
class Advantages:
    """Advantages of a batch."""

    batch: TrainBatch
    """As it is trained on: a function of the user's may have changed its loss masks."""
    per_token: NDArray[np.float32]
    """[response tokens]"""
    per_sample: NDArray[np.float32]
    """[samples] the mean of a sample's tokens"""
    returns: NDArray[np.float32] | None = None
    """[response tokens] what a critic's values are trained towards, zeros where not trained; None without a critic"""


def advantages_of(
    batch: TrainBatch,
    estimate: Estimate,
    known: Known,
    *,
    name: str,
    distillation: Distillation | None = None,
    normalize: bool = False,
    function: RunHookFunction | None = None,
    postprocess: RunHookFunction | None = None,
) -> Advantages:
    """The advantages that come with a batch, else those of the estimator, which is called `name`; then `postprocess`.

    `function` is the user's in place of the estimator: slime's is called here, one of ours is `estimate`.
    `distillation` lowers all of them, wherever they come from; then `normalize` whitens them over all trained tokens.
    A token that is not trained on has its sample's mean.
    Raises TrainError for a number that is not finite, RolloutError for what `postprocess` does.
    """
    seen = advantage_input(batch, known)
    returns = None
    maker = f"advantage estimator {name!r}" if function is None else function.name
    if batch.advantages is not None:
        found = batch.advantages[seen.sample_of_token]
    elif function is not None and function.is_slime:
        # slime compares rewards with their group before it makes advantages, but for a critic
        compared = batch.rewards if known.values is not None else _means(estimate(seen).advantages, seen)
        found, returns = _slimes_advantages(function, batch, known, compared)
    else:
        made = estimate(seen)
        found = made.advantages
        if known.values is not None:
            returns = _per_response_token(made.returns, batch, maker)
    if distillation is not None:
        found = found - distillation.coef * distillation.gap(batch, known)
    if normalize and len(found):
        found = whiten(found, moments(found))
    per_sample = _means(found, seen)
    _check_finite(per_sample, batch, maker)
    per_token = np.repeat(per_sample, batch.response_lengths)
    per_token[np.flatnonzero(batch.loss_mask)] = found
    if postprocess is None:
        return Advantages(batch, per_token, per_sample, returns)
    batch = replace(batch, loss_mask=batch.loss_mask.copy())  # Ray's arrays are read-only
    if postprocess.is_slime:
        _run_slimes(postprocess, batch, per_token, per_sample)
    elif postprocess(batch, per_token) is not None:
        raise postprocess.broke("returned something; it changes batch.loss_mask and advantages in place")
    if not np.isfinite(per_token).all():
        raise postprocess.broke("set an advantage that is not finite")
    _check_masks(postprocess, batch.loss_mask)
    ends = batch.response_lengths.cumsum(dtype=np.int64)
    sums = np.concatenate(([0.0], per_token.cumsum(dtype=np.float64)))
    means = (sums[ends] - sums[ends - batch.response_lengths]) / np.maximum(batch.response_lengths, 1)
    return Advantages(batch, per_token, means.astype(np.float32), returns)


def _means(values: NDArray[np.float32], seen: AdvantageInput) -> NDArray[np.float32]:
    """[samples] of each one's trained tokens; 0 where there is none."""
    sums = np.bincount(seen.sample_of_token, values, len(seen.num_tokens))
    means: NDArray[np.float32] = (sums / np.maximum(seen.num_tokens, 1)).astype(np.float32)
    return means


def _run_slimes(
    hook: RunHookFunction, batch: TrainBatch, per_token: NDArray[np.float32], per_sample: NDArray[np.float32]
) -> None:
    """Call slime's `(args, rollout_id, rollout_data)` and take over loss masks and advantages, changed in place."""
    lengths = batch.response_lengths.tolist()
    rollout_data = _slime_data(batch)
    rollout_data["advantages"] = [part.clone() for part in torch.from_numpy(per_token).split_with_sizes(lengths)]
    rollout_data["rewards"] = per_sample.tolist()
    hook(hook.args, batch.step, rollout_data)
    masks = _per_token_of(hook, rollout_data, "loss_masks", lengths)
    _check_masks(hook, masks)  # before a part of one becomes 0
    batch.loss_mask[:], per_token[:] = masks, _per_token_of(hook, rollout_data, "advantages", lengths)


def _check_masks(hook: RunHookFunction, masks: NDArray[Any]) -> None:
    if not np.isin(masks, (0, 1)).all():
        raise hook.broke("set loss masks to other values than 0 and 1")


def _slimes_advantages(
    hook: RunHookFunction, batch: TrainBatch, known: Known, rewards: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Call slime's `(args, rollout_data)`, which sets advantages and returns; the advantages of trained tokens."""
    lengths, data = batch.response_lengths.tolist(), {**_slime_data(batch), "rewards": rewards.tolist()}
    for key in ("log_probs", "ref_log_probs", "teacher_log_probs", "values"):
        if (values := getattr(known, key)) is not None:
            data[key] = list(torch.from_numpy(values).split_with_sizes(lengths))
    hook(hook.args, data)
    for key in ("advantages", "returns")[: 1 if known.values is None else 2]:
        if key not in data:
            raise hook.broke(f"set no {key!r} in rollout_data")
    found = _per_token_of(hook, data, "advantages", lengths)[np.flatnonzero(batch.loss_mask)]
    return found, None if known.values is None else _per_token_of(hook, data, "returns", lengths)


def _per_token_of(
    hook: RunHookFunction, rollout_data: dict[str, Any], key: str, lengths: list[int]
) -> NDArray[np.float32]:
    parts = [torch.as_tensor(part).flatten() for part in rollout_data[key]]
    if [len(part) for part in parts] != lengths:
        raise hook.broke(f"left {key!r} with other lengths than response_lengths")
    return torch.cat(parts).to(torch.float32).numpy() if parts else np.zeros(0, np.float32)


def _slime_data(batch: TrainBatch) -> dict[str, Any]:
    """A batch as slime has it: lists of numbers and of tensors."""
    lengths = batch.response_lengths.tolist()
    total_lengths = (batch.prompt_lengths + batch.response_lengths).tolist()
    return {
        "tokens": list(torch.from_numpy(batch.tokens.astype(np.int64)).split_with_sizes(total_lengths)),
        "total_lengths": total_lengths,
        "response_lengths": lengths,
        "loss_masks": [
            mask.clone() for mask in torch.from_numpy(batch.loss_mask.astype(np.int32)).split_with_sizes(lengths)
        ],
        "rollout_log_probs": list(torch.from_numpy(batch.log_probs.copy()).split_with_sizes(lengths)),
        "rewards": batch.rewards.tolist(),
        "raw_reward": batch.rewards.tolist(),
        "rollout_ids": batch.rollout_ids.tolist(),
        "sample_indices": batch.sample_ids.tolist(),
    }


def advantage_input(batch: TrainBatch, known: Known) -> AdvantageInput:
    """What an estimator sees of a batch."""
    trained = np.flatnonzero(batch.loss_mask)
    sample_of_token = np.repeat(np.arange(len(batch)), batch.response_lengths)[trained]
    return AdvantageInput(
        rewards=batch.rewards,
        group_ids=batch.group_ids,
        rollout_ids=batch.rollout_ids,
        num_tokens=np.bincount(sample_of_token, minlength=len(batch)).astype(np.int64),
        rollout_log_probs=batch.log_probs[trained],
        log_probs=None if known.log_probs is None else known.log_probs[trained],
        ref_log_probs=None if known.ref_log_probs is None else known.ref_log_probs[trained],
        values=None if known.values is None else known.values[trained],
    )


def _per_response_token(returns: NDArray[np.float32] | None, batch: TrainBatch, maker: str) -> NDArray[np.float32]:
    trained = np.flatnonzero(batch.loss_mask)
    if returns is None or np.shape(returns) != trained.shape:
        gave = "none" if returns is None else f"shape {np.shape(returns)}"
        raise TrainError(
            f"{maker} takes a critic's values and gave {gave} for the returns of {len(trained)} "
            "trained tokens, which the critic is trained towards; return Advantages(advantages, returns)"
        )
    if not np.isfinite(returns).all():
        raise TrainError(f"step {batch.step}: {maker} gave a return that is not finite")
    spread = np.zeros(len(batch.log_probs), np.float32)
    spread[trained] = returns
    return spread


def _check_finite(advantages: NDArray[np.float32], batch: TrainBatch, maker: str) -> None:
    if not np.isfinite(advantages).all():
        sample = int(batch.sample_ids[~np.isfinite(advantages)][0])
        raise TrainError(f"step {batch.step}: {maker} gave a number that is not finite to sample {sample}")
