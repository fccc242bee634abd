"""The step's mean against a loop over rollouts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimrl.algorithms.reduction import token_weights

masked_tokens = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.floats(-5, 5)), min_size=1, max_size=20)


@given(masked_tokens, st.booleans())
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


@given(masked_tokens, st.integers(1, 100))
def test_with_a_constant_every_token_weighs_the_same_whatever_the_lengths(
    tokens: list[tuple[int, int, float]], constant: int
) -> None:
    rollouts, mask = torch.tensor([t[0] for t in tokens]), torch.tensor([t[1] for t in tokens])
    weights = token_weights(mask, rollouts, num_rollouts=4, per_token=False, tokens_per_rollout=constant)
    assert weights.tolist() == pytest.approx([m / constant / 4 for _, m, _ in tokens])


def test_weights_of_hand_worked_rollouts() -> None:
    mask, rollouts = torch.tensor([1, 1, 0, 1]), torch.tensor([0, 0, 0, 1])
    assert token_weights(mask, rollouts, num_rollouts=2, per_token=False).tolist() == [0.25, 0.25, 0.0, 0.5]
    per_token = token_weights(mask, rollouts, num_rollouts=2, per_token=True)
    assert per_token.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
