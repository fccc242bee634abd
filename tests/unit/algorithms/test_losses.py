"""KL estimates, the clipped loss and the step's mean against hand-worked values and slow versions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimrl.algorithms.kl import kl_estimate
from slimrl.algorithms.policy_loss import clipped_policy_loss
from slimrl.algorithms.reduction import token_weights

log_prob = st.floats(-30, 0, allow_nan=False, width=32)


def test_kl_estimates_of_hand_worked_values() -> None:
    log_probs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])
    assert kl_estimate(log_probs, reference, "k1").tolist() == [1.0, -1.0]
    assert kl_estimate(log_probs, reference, "k2").tolist() == [0.5, 0.5]
    expected = [math.exp(-1) - 1 + 1, math.exp(1) - 1 - 1]
    assert kl_estimate(log_probs, reference, "k3").tolist() == pytest.approx(expected)
    assert kl_estimate(log_probs, reference, "low_var_kl").tolist() == pytest.approx(expected)


def test_low_var_kl_is_k3_clamped_to_ten() -> None:
    log_probs, reference = torch.tensor([-20.0, 0.0]), torch.tensor([0.0, -1e9])
    assert kl_estimate(log_probs, reference, "low_var_kl").tolist() == [10.0, 10.0]


@given(st.lists(st.tuples(log_prob, log_prob), min_size=1, max_size=8))
def test_k2_and_k3_are_never_negative(pairs: list[tuple[float, float]]) -> None:
    log_probs, reference = torch.tensor(pairs).unbind(-1)
    assert (kl_estimate(log_probs, reference, "k2") >= 0).all()
    assert (kl_estimate(log_probs, reference, "k3") >= -1e-6).all()


def test_loss_is_clipped_above_one_for_good_and_below_one_for_bad_tokens() -> None:
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, is_clipped = clipped_policy_loss(ratios.log(), torch.zeros(5), advantages, eps_clip=0.2, eps_clip_high=0.28)
    assert loss.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, -2.2])
    assert is_clipped.tolist() == [True, False, False, True, False]


@given(
    st.lists(st.tuples(log_prob, log_prob, st.floats(-3, 3)), min_size=1, max_size=8),
    st.floats(0.01, 0.9),
    st.floats(0.01, 0.9),
)
def test_loss_equals_one_token_at_a_time(tokens: list[tuple[float, float, float]], low: float, high: float) -> None:
    log_probs, old, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(-1)
    loss, is_clipped = clipped_policy_loss(log_probs, old, advantages, eps_clip=low, eps_clip_high=high)
    for i, (new, before, advantage) in enumerate(tokens):
        ratio = math.exp(new - before)
        clipped = min(max(ratio, 1 - low), 1 + high)
        assert loss[i].item() == pytest.approx(max(-ratio * advantage, -clipped * advantage), abs=1e-9)
        assert is_clipped[i].item() == (-clipped * advantage > -ratio * advantage)


def test_first_step_has_the_plain_policy_gradient() -> None:
    log_probs = torch.tensor([-1.0, -3.0], requires_grad=True)
    loss, _ = clipped_policy_loss(
        log_probs, log_probs.detach(), torch.tensor([2.0, -1.0]), eps_clip=0.2, eps_clip_high=0.2
    )
    loss.sum().backward()
    assert loss.tolist() == [-2.0, 1.0]
    assert log_probs.grad is not None and log_probs.grad.tolist() == [-2.0, 1.0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.floats(-5, 5)), min_size=1, max_size=20),
    st.booleans(),
)
def test_weighted_sum_is_the_mean_over_rollouts_or_tokens(
    tokens: list[tuple[int, int, float]], per_token: bool
) -> None:
    rollouts = torch.tensor([t[0] for t in tokens])
    mask = torch.tensor([t[1] for t in tokens])
    values = torch.tensor([t[2] for t in tokens])
    weights = token_weights(mask, rollouts, num_rollouts=4, per_token=per_token)
    if per_token:
        expected = sum(m * v for _, m, v in tokens) / max(sum(m for _, m, _ in tokens), 1)
    else:
        expected = 0.0
        for rollout in range(4):
            own = [(m, v) for r, m, v in tokens if r == rollout]
            expected += sum(m * v for m, v in own) / max(sum(m for m, _ in own), 1) / 4
    assert (weights * values).sum().item() == pytest.approx(expected, abs=1e-5)
