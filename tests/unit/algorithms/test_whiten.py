"""Whitening over all trained tokens, however they are spread over ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.algorithms.whiten import moments, whiten

values_of_tokens = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30)


def test_whitened_hand_worked_values() -> None:
    values = np.array([1.0, 2.0, 3.0], np.float32)
    assert whiten(values, moments(values)).tolist() == pytest.approx([-1.0, 0.0, 1.0])


@given(values_of_tokens)
def test_whitening_equals_mean_and_unbiased_deviation(values: list[float]) -> None:
    array = np.array(values, np.float32)
    exact = array.astype(np.float64)
    variance = exact.var(ddof=1) if len(values) > 1 else 0.0
    expected = (exact - exact.mean()) / np.sqrt(variance + 1e-8)
    assert whiten(array, moments(array)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(values_of_tokens, values_of_tokens)
def test_moments_of_ranks_add_up(left: list[float], right: list[float]) -> None:
    parts = [np.array(part, np.float32) for part in (left, right)]
    whole = np.concatenate(parts)
    total = moments(parts[0]) + moments(parts[1])
    apart = np.concatenate([whiten(part, total) for part in parts])
    assert apart == pytest.approx(whiten(whole, moments(whole)), rel=1e-4, abs=1e-4)


def test_equal_values_become_zero() -> None:
    values = np.full(1000, 0.1, np.float32)
    assert np.abs(whiten(values, moments(values))).max() < 1e-3
    assert whiten(values[:1], moments(values[:1])).tolist() == [0.0]


def test_a_rollout_without_trained_tokens_is_refused() -> None:
    empty = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="no token of the rollout is trained"):
        whiten(empty, moments(empty))
