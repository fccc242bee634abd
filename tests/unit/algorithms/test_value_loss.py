"""The critic's loss, and that of fine-tuning, against hand-worked values, a loop and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimrl.algorithms.reduction import token_weights
from slimrl.algorithms.sft_loss import sft_loss
from slimrl.algorithms.value_loss import clipped_value_loss

number = st.floats(-3, 3)


def test_value_loss_of_hand_worked_values() -> None:
    values, old = torch.tensor([1.0, 1.0, 0.1, -1.0]), torch.zeros(4)
    loss, is_clipped = clipped_value_loss(values, old, torch.tensor([1.0, 0.0, 1.0, 0.0]), value_clip=0.2)
    assert loss.tolist() == pytest.approx([0.64, 1.0, 0.81, 1.0])
    assert is_clipped.tolist() == [True, False, False, False]


@given(st.lists(st.tuples(number, number, number), min_size=1, max_size=8), st.floats(0.01, 1))
def test_value_loss_equals_one_token_at_a_time(tokens: list[tuple[float, float, float]], clip: float) -> None:
    values, old, returns = torch.tensor(tokens, dtype=torch.float64).unbind(-1)
    loss, _ = clipped_value_loss(values, old, returns, value_clip=clip)
    expected = [max((min(max(v, o - clip), o + clip) - r) ** 2, (v - r) ** 2) for v, o, r in tokens]
    assert loss.tolist() == pytest.approx(expected, abs=1e-9)


def test_value_gradients_equal_finite_differences() -> None:
    values, old, returns = torch.tensor(
        [[1.0, 0.1, -1.0, 0.3, 2.0], [0.5, 0.0, 0.0, 0.5, 0.0], [3.0, 1.0, -2.0, 0.0, 0.0]], dtype=torch.float64
    )

    def loss(values: Tensor) -> Tensor:
        return clipped_value_loss(values, old, returns, value_clip=0.25).loss

    assert torch.autograd.gradcheck(loss, values.clone().requires_grad_())


def test_sft_loss_is_the_negative_mean_log_likelihood_of_trained_tokens() -> None:
    log_probs = torch.tensor([-1.0, -3.0, -8.0], requires_grad=True)
    weights = token_weights(torch.ones(3), torch.tensor([0, 0, 1]), num_rollouts=2, per_token=True)
    loss = torch.dot(weights, sft_loss(log_probs))
    loss.backward()
    assert loss.item() == pytest.approx(4.0)
    assert log_probs.grad is not None and log_probs.grad.tolist() == pytest.approx([-1 / 3] * 3)
