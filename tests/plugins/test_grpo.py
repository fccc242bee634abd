"""Group-relative advantages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Advantage
from slimrl.config import GrpoConfig
from slimrl_advantages.grpo import slimrl_offer_advantages


def estimator(**kwargs: bool) -> Advantage:
    options = {GrpoConfig: GrpoConfig(**kwargs)}
    return slimrl_offer_advantages()["grpo"](options)  # type: ignore[arg-type]  # a dict is enough of PluginOptions


def advantages(rewards: list[float], group_ids: list[int], **kwargs: bool) -> list[float]:
    return estimator(**kwargs)(np.array(rewards, np.float32), np.array(group_ids)).tolist()


def test_rewards_are_centred_and_divided_by_the_unbiased_deviation() -> None:
    expected = 0.5 / (np.sqrt(1 / 3) + 1e-6)
    assert advantages([1, 0, 1, 0], [5] * 4) == pytest.approx([expected, -expected, expected, -expected])


def test_without_std_normalisation_rewards_are_only_centred() -> None:
    flags = {"disable_grpo_std_normalization": True}
    assert advantages([3, 0, 0], [0] * 3, **flags) == pytest.approx([2, -1, -1])


def test_groups_are_told_apart_by_id_not_by_place_or_size() -> None:
    together = advantages([1, 0, 5, 1, 2], [7, 7, 3, 3, 3])
    apart = advantages([5, 1, 1, 0, 2], [3, 7, 3, 7, 3])
    assert [apart[1], apart[3], apart[0], apart[2], apart[4]] == together


def test_a_single_sample_and_equal_rewards_give_exactly_zero() -> None:
    assert advantages([0.3, 0.1, 0.1, 0.1], [0, 1, 1, 1]) == [0, 0, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10, width=32)), min_size=1, max_size=30), st.booleans())
def test_advantages_equal_a_loop_over_groups_and_sum_to_zero(pairs: list[tuple[int, float]], center: bool) -> None:
    group_ids = [g for g, _ in pairs]
    rewards = [r for _, r in pairs]
    result = advantages(rewards, group_ids, disable_grpo_std_normalization=center)
    for group in set(group_ids):
        own = np.array([r for g, r in pairs if g == group], dtype=np.float64)
        got = [a for a, g in zip(result, group_ids, strict=True) if g == group]
        expected = own - own.mean()
        if not center and len(own) > 1:
            expected = expected / (own.std(ddof=1) + 1e-6)
        if own.min() == own.max():
            expected = np.zeros_like(own)
        assert got == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-5)
        assert sum(got) == pytest.approx(0, abs=1e-3)
