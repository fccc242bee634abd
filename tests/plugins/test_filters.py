from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Group, Sample, Score
from slimrl_filters.buffer import pop_first
from slimrl_filters.dynamic import check_reward_nonzero_std


def group(values: list[float | None], group_id: int = 0) -> Group:
    samples = [Sample(group_id, i, i, "", []) for i in range(len(values))]
    for sample, value in zip(samples, values, strict=True):
        sample.score = Score(status="timeout") if value is None else Score.scored(value)
    return Group(group_id, samples)


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.0, 0.0, 0.0], [0.1] * 8, [1.0, 1.0, None]])
def test_a_group_whose_scores_are_equal_is_dropped(values: list[float | None]) -> None:
    verdict = check_reward_nonzero_std(group(values))
    assert (verdict.keep, verdict.reason) == (False, "zero_std")


@pytest.mark.parametrize("values", [[], [1.0], [None, None], [1.0, None]])
def test_a_group_with_fewer_than_two_scores_has_its_own_reason(values: list[float | None]) -> None:
    verdict = check_reward_nonzero_std(group(values))
    assert (verdict.keep, verdict.reason) == (False, "too_few_scored")


def test_a_missing_score_is_not_a_zero() -> None:
    assert not check_reward_nonzero_std(group([1.0, 1.0, None])).keep


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=16))
def test_the_verdict_is_that_of_the_unbiased_standard_deviation(values: list[float]) -> None:
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    if not 0.9e-6 < std < 1.1e-6:
        assert check_reward_nonzero_std(group(list(values))).keep is (std > 1e-6)


@given(st.integers(0, 6), st.integers(0, 8))
def test_the_oldest_groups_leave_the_buffer_first(held: int, count: int) -> None:
    buffer = [group([], group_id=i) for i in range(held)]
    taken = pop_first(buffer, count)
    assert [g.group_id for g in taken] == list(range(min(held, count)))
    assert [g.group_id for g in buffer] == list(range(min(held, count), held))
