"""KL estimates against hand-worked values, a slow version, finite differences and the true divergence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimrl.algorithms.kl import KlEstimator, kl_estimate

log_prob = st.floats(-30, 0, allow_nan=False, width=32)
ESTIMATORS: tuple[KlEstimator, ...] = ("k1", "k2", "k3", "low_var_kl")


def slow(new: float, reference: float, estimator: KlEstimator, old: float | None) -> float:
    x = new - reference
    estimate = {"k1": x, "k2": x * x / 2}.get(estimator, math.exp(-x) - 1 + x)
    if old is not None:
        estimate *= math.exp(new - old)
    return max(-10.0, min(10.0, estimate)) if estimator == "low_var_kl" else estimate


def test_kl_estimates_of_hand_worked_values() -> None:
    log_probs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])
    assert kl_estimate(log_probs, reference, "k1").tolist() == [1.0, -1.0]
    assert kl_estimate(log_probs, reference, "k2").tolist() == [0.5, 0.5]
    expected = [math.exp(-1) - 1 + 1, math.exp(1) - 1 - 1]
    assert kl_estimate(log_probs, reference, "k3").tolist() == pytest.approx(expected)
    assert kl_estimate(log_probs, reference, "low_var_kl").tolist() == pytest.approx(expected)
    old = log_probs - math.log(2)
    assert kl_estimate(log_probs, reference, "k2", old_log_probs=old).tolist() == pytest.approx([1.0, 1.0])


def test_low_var_kl_is_k3_clamped_to_ten() -> None:
    log_probs, reference = torch.tensor([-20.0, 0.0]), torch.tensor([0.0, -1e9])
    assert kl_estimate(log_probs, reference, "low_var_kl").tolist() == [10.0, 10.0]


def test_a_token_that_the_policy_has_all_but_ruled_out_gives_low_var_kl_no_gradient() -> None:
    log_probs = torch.tensor([-200.0, -1.0], requires_grad=True)
    kl_estimate(log_probs, torch.tensor([-1.0, -1.0 - math.log(2)]), "low_var_kl").sum().backward()
    assert log_probs.grad is not None and log_probs.grad.tolist() == pytest.approx([0.0, 0.5])


def test_the_unbiased_variant_is_clamped_after_its_ratio() -> None:
    log_probs, reference, old = torch.tensor([-3.0]), torch.tensor([0.0]), torch.tensor([0.0])
    k3 = math.exp(3) - 1 - 3
    estimate = kl_estimate(log_probs, reference, "low_var_kl", old_log_probs=old)
    assert estimate.tolist() == pytest.approx([math.exp(-3) * k3])


@given(st.lists(st.tuples(log_prob, log_prob), min_size=1, max_size=8))
def test_k2_and_k3_are_never_negative(pairs: list[tuple[float, float]]) -> None:
    log_probs, reference = torch.tensor(pairs).unbind(-1)
    assert (kl_estimate(log_probs, reference, "k2") >= 0).all()
    assert (kl_estimate(log_probs, reference, "k3") >= -1e-6).all()


@given(
    st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.floats(-5, 0)), min_size=1, max_size=8),
    st.sampled_from(ESTIMATORS),
    st.booleans(),
)
def test_estimates_equal_one_token_at_a_time(
    tokens: list[tuple[float, float, float]], estimator: KlEstimator, unbiased: bool
) -> None:
    log_probs, reference, old = torch.tensor(tokens, dtype=torch.float64).unbind(-1)
    estimate = kl_estimate(log_probs, reference, estimator, old_log_probs=old if unbiased else None)
    expected = [slow(new, ref, estimator, before if unbiased else None) for new, ref, before in tokens]
    assert estimate.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_equal_finite_differences(estimator: KlEstimator, unbiased: bool) -> None:
    log_probs, reference, old = torch.tensor(
        [[-1.0, -2.0, -0.1, -6.0], [-1.5, -1.0, -4.0, -0.5], [-1.2, -2.2, -0.3, -2.0]], dtype=torch.float64
    )

    def estimate(values: Tensor) -> Tensor:
        return kl_estimate(values, reference, estimator, old_log_probs=old if unbiased else None)

    assert torch.autograd.gradcheck(estimate, log_probs.clone().requires_grad_())


def test_value_and_gradient_of_unbiased_k3_are_those_of_the_true_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference, old = torch.randn(3, 7, dtype=torch.float64, generator=generator).log_softmax(-1)

    def expected_estimate(values: Tensor) -> Tensor:
        estimate = kl_estimate(values.log_softmax(-1), reference, "k3", old_log_probs=old)
        return (old.exp() * estimate).sum()  # the mean over tokens that the old policy samples

    def divergence(values: Tensor) -> Tensor:
        log_probs = values.log_softmax(-1)
        return (log_probs.exp() * (log_probs - reference)).sum()

    parts = []
    for function in (expected_estimate, divergence):
        values = logits.clone().requires_grad_()
        value = function(values)
        value.backward()
        assert values.grad is not None
        parts.append([value.item(), *values.grad.tolist()])
    assert parts[0] == pytest.approx(parts[1])
