"""Policy losses against hand-worked values, one token or sample at a time, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimrl.algorithms.policy_loss import (
    cispo_loss,
    clipped_policy_loss,
    off_policy_sequences,
    sequence_policy_loss,
)

log_prob = st.floats(-4, 0, allow_nan=False)
token = st.tuples(log_prob, log_prob, st.floats(-3, 3))
samples_of_tokens = st.lists(st.lists(token, max_size=5), min_size=1, max_size=5).filter(any)
clip = st.floats(0.01, 0.9)
dual = st.none() | st.floats(1.1, 4)


def packed(samples: list[list[tuple[float, float, float]]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = torch.tensor([token for sample in samples for token in sample], dtype=torch.float64)
    return *tokens.unbind(-1), torch.tensor([len(sample) for sample in samples])


def surrogate(ratio: float, advantage: float, low: float, high: float, c: float | None) -> float:
    loss = max(-ratio * advantage, -min(max(ratio, 1 - low), 1 + high) * advantage)
    return min(loss, -c * advantage) if c is not None and advantage < 0 else loss


def test_loss_is_clipped_above_one_for_good_and_below_one_for_bad_tokens() -> None:
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, is_clipped = clipped_policy_loss(ratios.log(), torch.zeros(5), advantages, eps_clip=0.2, eps_clip_high=0.28)
    assert loss.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, -2.2])
    assert is_clipped.tolist() == [True, False, False, True, False]


def test_dual_clip_bounds_the_loss_of_bad_tokens_alone() -> None:
    ratios = torch.tensor([5.0, 2.0, 5.0, 0.5, 5.0])
    advantages = torch.tensor([-2.0, -1.0, 2.0, -1.0, 0.0])
    loss, is_clipped = clipped_policy_loss(
        ratios.log(), torch.zeros(5), advantages, eps_clip=0.2, eps_clip_high=0.2, eps_clip_c=3.0
    )
    assert loss.tolist() == pytest.approx([6.0, 2.0, -2.4, 0.8, 0.0])
    assert is_clipped.tolist() == [True, False, True, True, False]


def test_dual_clip_at_one_or_below_is_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"eps_clip_c is 1\.0; it must be above 1"):
        clipped_policy_loss(one, one, one, eps_clip=0.2, eps_clip_high=0.2, eps_clip_c=1.0)


@given(samples_of_tokens, clip, clip, dual)
def test_clipped_loss_equals_one_token_at_a_time(
    samples: list[list[tuple[float, float, float]]], low: float, high: float, c: float | None
) -> None:
    log_probs, old, advantages, _ = packed(samples)
    loss, is_clipped = clipped_policy_loss(log_probs, old, advantages, eps_clip=low, eps_clip_high=high, eps_clip_c=c)
    for i, (new, before, advantage) in enumerate(token for sample in samples for token in sample):
        ratio = math.exp(new - before)
        expected = surrogate(ratio, advantage, low, high, c)
        assert loss[i].item() == pytest.approx(expected, abs=1e-9)
        if abs(expected + ratio * advantage) > 1e-9:
            assert is_clipped[i]


def test_sequence_loss_of_hand_worked_values() -> None:
    # Mean log-ratios: (0.3 - 0.1) / 2 = 0.1, and -1.
    log_probs, old = torch.tensor([-0.7, -1.1, -3.0]), torch.tensor([-1.0, -1.0, -2.0])
    loss, is_clipped = sequence_policy_loss(
        log_probs, old, torch.tensor([2.0, 2.0, -1.0]), torch.tensor([2, 0, 1]), eps_clip=0.2, eps_clip_high=0.05
    )
    assert loss.tolist() == pytest.approx([-2.1, -2.1, 0.8])
    assert is_clipped.tolist() == [True, True, True]


@given(samples_of_tokens, clip, clip, dual)
def test_sequence_loss_equals_one_sample_at_a_time(
    samples: list[list[tuple[float, float, float]]], low: float, high: float, c: float | None
) -> None:
    log_probs, old, advantages, lengths = packed(samples)
    loss, _ = sequence_policy_loss(log_probs, old, advantages, lengths, eps_clip=low, eps_clip_high=high, eps_clip_c=c)
    expected = []
    for sample in samples:
        mean = sum(new - before for new, before, _ in sample) / max(len(sample), 1)
        expected += [surrogate(math.exp(mean), advantage, low, high, c) for _, _, advantage in sample]
    assert loss.tolist() == pytest.approx(expected, abs=1e-9)


def test_gradient_of_the_sequence_loss_is_spread_over_the_sample_as_in_the_paper() -> None:
    log_probs = torch.tensor([-1.0, -2.0, -3.0, -1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.1, -2.0, -3.2, -1.0], dtype=torch.float64)
    advantages = torch.tensor([1.5, 1.5, 1.5, -1.0], dtype=torch.float64)
    loss, _ = sequence_policy_loss(log_probs, old, advantages, torch.tensor([3, 1]), eps_clip=0.5, eps_clip_high=0.5)
    (loss[:3].mean() + loss[3]).backward()
    ratio = math.exp(0.1)  # the mean of 0.1, 0 and 0.2
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-1.5 * ratio / 3] * 3 + [1.0])


def test_cispo_keeps_the_gradient_of_clipped_tokens() -> None:
    log_probs = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-2.0, -1.0, 0.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    loss, is_clipped = cispo_loss(log_probs, old, advantages, eps_clip=0.2, eps_clip_high=0.3)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1.3, 2.0, -0.8])
    assert is_clipped.tolist() == [True, False, True]
    assert log_probs.grad is not None and log_probs.grad.tolist() == pytest.approx([-1.3, -2.0, 0.8])


@given(samples_of_tokens, clip, clip)
def test_cispo_equals_one_token_at_a_time(
    samples: list[list[tuple[float, float, float]]], low: float, high: float
) -> None:
    log_probs, old, advantages, _ = packed(samples)
    loss, _ = cispo_loss(log_probs, old, advantages, eps_clip=low, eps_clip_high=high)
    expected = [
        -min(max(math.exp(new - before), 1 - low), 1 + high) * advantage * new
        for sample in samples
        for new, before, advantage in sample
    ]
    assert loss.tolist() == pytest.approx(expected, abs=1e-9)


def test_first_step_has_the_plain_policy_gradient() -> None:
    advantages = torch.tensor([2.0, -1.0])
    for loss_of in (clipped_policy_loss, cispo_loss):
        log_probs = torch.tensor([-1.0, -3.0], requires_grad=True)
        loss, is_clipped = loss_of(log_probs, log_probs.detach(), advantages, eps_clip=0.2, eps_clip_high=0.2)
        loss.sum().backward()
        assert log_probs.grad is not None and log_probs.grad.tolist() == [-2.0, 1.0]
        assert not is_clipped.any()


@pytest.mark.parametrize("seed", range(5))
def test_gradients_equal_finite_differences(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3, 0, 1, 2])
    log_probs = -2 * torch.rand(6, dtype=torch.float64, generator=generator)
    old = log_probs + 0.5 * torch.randn(6, dtype=torch.float64, generator=generator)
    advantages = torch.randn(6, dtype=torch.float64, generator=generator)
    clips = {"eps_clip": 0.2, "eps_clip_high": 0.3, "eps_clip_c": 1.5}

    def clipped(values: Tensor) -> Tensor:
        return clipped_policy_loss(values, old, advantages, **clips).loss

    def sequence(values: Tensor) -> Tensor:
        return sequence_policy_loss(values, old, advantages, lengths, **clips).loss

    ratio = torch.exp(log_probs - old)
    mean_ratio = torch.exp(torch.stack([(log_probs - old)[part].mean() for part in ([0, 1, 2], [3], [4, 5])]))
    for function, ratios in ((clipped, ratio), (sequence, mean_ratio)):
        assert all((ratios - bound).abs().min() > 1e-4 for bound in (0.8, 1.3, 1.5)), "a corner has no gradient"
        assert torch.autograd.gradcheck(function, log_probs.clone().requires_grad_())


def test_opsm_leaves_out_bad_tokens_of_samples_that_the_policy_left() -> None:
    # Mean drifts: 0.2, 0.2 and 0.05; the second sample's tokens are good and bad.
    log_probs = torch.tensor([-1.3, -1.1, -1.2, -1.2, -1.05])
    advantages = torch.tensor([-1.0, -1.0, 1.0, -1.0, -1.0])
    masked = off_policy_sequences(log_probs, -torch.ones(5), advantages, torch.tensor([2, 2, 0, 1]), delta=0.1)
    assert masked.tolist() == [True, True, False, True, False]


@given(samples_of_tokens, st.floats(0, 1))
def test_opsm_equals_one_sample_at_a_time(samples: list[list[tuple[float, float, float]]], delta: float) -> None:
    log_probs, old, advantages, lengths = packed(samples)
    masked = off_policy_sequences(log_probs, old, advantages, lengths, delta=delta).tolist()
    for sample in samples:
        drift = sum(before - new for new, before, _ in sample) / max(len(sample), 1)
        own, masked = masked[: len(sample)], masked[len(sample) :]
        if abs(drift - delta) > 1e-9:
            assert own == [advantage < 0 and drift > delta for _, _, advantage in sample]
