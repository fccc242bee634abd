"""Advantages by token: those of a batch, of an estimator, and what a function of the user's makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from slimrl.errors import RolloutError, TrainError
from slimrl.estimator import estimate_of
from slimrl.megatron.advantages import Advantages, advantages_of
from slimrl.megatron.known import Known
from slimrl.registry import Options, RunHookFunction
from slimrl.registry.adapt import adapt
from slimrl.registry.kinds import RunHook
from slimrl.registry.resolve import Resolved
from slimrl.types import TrainBatch

Make = Callable[..., TrainBatch]


def hook(function: Any, kind: RunHook = "data_postprocess") -> RunHookFunction:
    found = adapt(kind, function, "mine.py:f")
    resolved = Resolved(*(kind, "mine.py:f", "f", None, None, None, ""), found.shape, False, None, False, found.bind)
    return RunHookFunction(resolved, Options())


def advantages(batch: TrainBatch, function: Any = None, **settings: Any) -> Advantages:
    estimate = estimate_of(lambda rewards, group_ids: rewards, "mine")
    postprocess = None if function is None else hook(function)
    return advantages_of(batch, estimate, Known(), name="mine", postprocess=postprocess, **settings)


def read_only(batch: TrainBatch) -> TrainBatch:
    """As a batch comes out of Ray's object store."""
    for name in ("loss_mask", "tokens", "rewards"):
        getattr(batch, name).flags.writeable = False
    return batch


def test_advantages_of_a_batch_take_the_place_of_the_estimators(make_batch: Make) -> None:
    batch = make_batch()
    given = np.arange(len(batch), dtype=np.float32)
    found = advantages(replace(batch, advantages=given))
    trained = batch.loss_mask.astype(bool)
    assert found.per_token[trained].tolist() == np.repeat(given, batch.response_lengths)[trained].tolist()
    whitened = advantages(replace(batch, advantages=given), normalize=True).per_token[trained]
    assert whitened.mean() == pytest.approx(0, abs=1e-6)
    assert whitened.std(ddof=1) == pytest.approx(1, abs=1e-5)


def test_a_function_of_ours_changes_masks_and_advantages_in_place(make_batch: Make) -> None:
    batch = read_only(make_batch())

    def mine(batch: TrainBatch, advantages: Any) -> None:
        advantages[:] = 2.0
        batch.loss_mask[:] = 1

    found = advantages(batch, mine)
    assert set(found.per_token.tolist()) == {2.0}
    assert found.per_sample.tolist() == [2.0] * len(batch)
    assert found.batch.loss_mask.all()
    assert not batch.loss_mask.all()


def test_a_function_of_slimes_changes_lists_of_tensors(make_batch: Make) -> None:
    batch = read_only(make_batch())

    def mine(args: Any, rollout_id: int, rollout_data: dict[str, Any]) -> None:
        assert rollout_id == batch.step
        assert [len(tokens) for tokens in rollout_data["tokens"]] == rollout_data["total_lengths"]
        rollout_data["advantages"][0].mul_(3)
        rollout_data["advantages"][1] = torch.full_like(rollout_data["advantages"][1], 5)
        rollout_data["loss_masks"][0].zero_()

    before, found = advantages(batch), advantages(batch, mine)
    first, second = batch.response_lengths[:2].tolist()
    assert found.per_token[:first].tolist() == pytest.approx((3 * before.per_token[:first]).tolist())
    assert found.per_token[first : first + second].tolist() == [5.0] * second
    assert found.per_token[first + second :].tolist() == before.per_token[first + second :].tolist()
    assert not found.batch.loss_mask[:first].any()


@pytest.mark.parametrize("has_critic", [False, True])
def test_an_advantage_function_of_slimes_sees_rewards_that_are_compared_and_as_they_were(
    make_batch: Make, has_critic: bool
) -> None:
    batch, seen = make_batch(), []
    estimate = estimate_of(lambda rewards, group_ids: rewards - rewards.mean(), "mine")
    known = Known(values=np.zeros_like(batch.log_probs) if has_critic else None)

    def mine(args: Any, rollout_data: dict[str, Any]) -> None:
        seen.append(rollout_data)
        rollout_data["advantages"] = rollout_data["returns"] = [torch.ones(n) for n in rollout_data["response_lengths"]]

    advantages_of(batch, estimate, known, name="mine", function=hook(mine, "custom_advantage"))
    ends = batch.response_lengths.cumsum()
    counts = np.array([part.sum() for part in np.split(batch.loss_mask, ends[:-1])])
    compared = np.where(counts > 0, batch.rewards - batch.rewards.mean(), 0.0)
    assert seen[0]["rewards"] == pytest.approx(batch.rewards.tolist() if has_critic else compared.tolist())
    assert seen[0]["raw_reward"] == batch.rewards.tolist()


def test_an_advantage_that_is_not_finite_names_the_function_that_gave_it(make_batch: Make) -> None:
    def mine(args: Any, rollout_data: dict[str, Any]) -> None:
        rollout_data["advantages"] = [torch.full((n,), float("nan")) for n in rollout_data["response_lengths"]]

    estimate = estimate_of(lambda rewards, group_ids: rewards, "grpo")
    with pytest.raises(TrainError, match=r"step 0: advantage function 'mine\.py:f' gave a number that is not finite"):
        advantages_of(make_batch(), estimate, Known(), name="grpo", function=hook(mine, "custom_advantage"))


def infinite(batch: TrainBatch, advantages: Any) -> None:
    advantages[0] = np.inf


def two(batch: TrainBatch, advantages: Any) -> None:
    batch.loss_mask[0] = 2


def returned(batch: TrainBatch, advantages: Any) -> Any:
    return advantages * 2


def other_tokens(batch: TrainBatch, advantages: Any) -> None:
    batch.tokens[0] = 1


def shorter(args: Any, rollout_id: int, rollout_data: dict[str, Any]) -> None:
    rollout_data["loss_masks"].pop()


def halved(args: Any, rollout_id: int, rollout_data: dict[str, Any]) -> None:
    rollout_data["loss_masks"] = [mask * 0.5 for mask in rollout_data["loss_masks"]]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (infinite, "set an advantage that is not finite"),
        (two, "set loss masks to other values than 0 and 1"),
        (halved, "set loss masks to other values than 0 and 1"),
        (returned, "returned something; it changes batch.loss_mask and advantages in place"),
        (other_tokens, "raised ValueError: assignment destination is read-only"),
        (shorter, "left 'loss_masks' with other lengths than response_lengths"),
    ],
)
def test_a_function_that_breaks_its_contract_is_named(make_batch: Make, function: Any, said: str) -> None:
    with pytest.raises(RolloutError) as caught:
        advantages(read_only(make_batch()), function)
    assert str(caught.value).startswith(f"data postprocess 'mine.py:f' {said}")
