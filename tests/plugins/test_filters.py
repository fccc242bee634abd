from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Group, Sample, Score, Status, UsageError, registry
from slimrl.registry import Options
from slimrl_filters.buffer import by_staleness, newest_first, pop_first
from slimrl_filters.dynamic import (
    DynamicFilterOptions,
    check_reward_nonzero_std,
    check_reward_nonzero_std_with_fallback,
    make_accuracy_band,
    make_response_length,
    make_truncation,
)


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


@given(st.lists(st.none() | st.floats(-100, 100), max_size=8))
def test_the_fallback_differs_only_in_what_is_dropped(values: list[float | None]) -> None:
    plain, fallback = check_reward_nonzero_std(group(values)), check_reward_nonzero_std_with_fallback(group(values))
    assert (plain.keep, plain.reason) == (fallback.keep, fallback.reason)
    assert fallback.keep_when_insufficient is not plain.keep
    assert not plain.keep_when_insufficient


@given(
    st.lists(st.none() | st.floats(0, 1), max_size=8),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_an_accuracy_band_looks_at_the_mean_of_the_scores_there_are(
    values: list[float | None], low: float, high: float
) -> None:
    low, high = min(low, high), max(low, high)
    keep = make_accuracy_band(Options([DynamicFilterOptions(accuracy_band_low=low, accuracy_band_high=high)]))
    known = [value for value in values if value is not None]
    mean = math.fsum(known) / len(known) if known else None
    verdict = keep(group(values))
    if mean is None:
        assert verdict.reason == "too_few_scored"
    elif min(abs(mean - low), abs(mean - high)) > 1e-9:
        assert verdict.keep is (low <= mean <= high)
        assert verdict.reason == ("" if verdict.keep else "accuracy_low" if mean < low else "accuracy_high")


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.floats(0, 1))
def test_a_group_of_which_too_many_were_truncated_is_dropped(truncated: list[bool], share: float) -> None:
    keep = make_truncation(Options([DynamicFilterOptions(truncation_max_share=share)]))
    cut = group([1.0] * len(truncated))
    for sample, was_cut in zip(cut, truncated, strict=True):
        sample.status = Status.TRUNCATED if was_cut else Status.COMPLETED
    assert keep(cut).keep is (sum(truncated) <= share * len(truncated))


def test_the_length_of_a_group_is_the_mean_over_its_samples_with_tokens() -> None:
    keep = make_response_length(Options([DynamicFilterOptions(response_length_low=3, response_length_high=5)]))
    for lengths, reason in (
        ([2, 4], ""),
        ([1, 4], "too_short"),
        ([4, 8], "too_long"),
        ([4, 0], ""),
        ([0], "too_short"),
    ):
        cut = group([1.0] * len(lengths))
        for sample, length in zip(cut, lengths, strict=True):
            sample.tokens = [1] * length
        assert keep(cut).reason == reason
        assert keep(cut).keep is (reason == "")


@pytest.mark.parametrize(
    ("make", "options", "problem"),
    [
        (make_accuracy_band, {"accuracy_band_low": 0.8, "accuracy_band_high": 0.2}, "--accuracy-band-low 0.8"),
        (make_truncation, {"truncation_max_share": 1.5}, "--truncation-max-share must be from 0 to 1; got 1.5"),
        (make_response_length, {"response_length_high": 0.0}, "--response-length-low 1"),
    ],
)
def test_limits_that_nothing_meets_are_refused(make, options: dict[str, float], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        make(Options([DynamicFilterOptions(**options)]))


@pytest.mark.parametrize(
    "path",
    [
        "slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std_with_fallback",
        "slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std",
    ],
)
def test_slimes_paths_lead_to_ours(path: str) -> None:
    keep = registry.load(warn=False).resolve("dynamic_filter", path).make(Options())
    assert keep(group([1.0, 1.0])).keep_when_insufficient is path.endswith("fallback")


def aged(versions: list[int | None]) -> list[Group]:
    buffer = [group([1.0], group_id=place) for place in range(len(versions))]
    for one, version in zip(buffer, versions, strict=True):
        if version is not None:
            one.samples[0].append([1, 1], [0.0, 0.0], [version, version + 1])
    return buffer


@given(st.lists(st.none() | st.integers(0, 4), max_size=8), st.integers(0, 10))
def test_the_stalest_groups_leave_first_and_equals_in_the_order_they_came(
    versions: list[int | None], count: int
) -> None:
    buffer = aged(versions)
    order = sorted(range(len(versions)), key=lambda i: (versions[i] is None, versions[i] or 0, i))
    assert [g.group_id for g in by_staleness(buffer, count)] == order[:count]
    assert [g.group_id for g in buffer] == sorted(order[count:])


@given(st.integers(0, 6), st.integers(0, 8))
def test_the_newest_groups_leave_first(held: int, count: int) -> None:
    buffer = aged([None] * held)
    assert [g.group_id for g in newest_first(buffer, count)] == list(range(held))[::-1][:count]
    assert [g.group_id for g in buffer] == list(range(max(held - count, 0)))
