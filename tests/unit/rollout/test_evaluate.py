"""pass@k against a count over all subsets, and what an evaluation says of rewards of every kind."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.observe.progress import is_eval_mean
from slimrl.observe.run_dir import RunDir
from slimrl.rollout.evaluate import eval_metrics, store_evaluation
from slimrl.rollout.pass_rate import default_ks, pass_at_k, pass_rate_metrics, pass_rates
from slimrl.types import Group, Sample, Score, Status

VALUES = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.5, 0.99, 1.0, 2.0]))


def make_group(values: list[float | None], group_id: int = 0, rollout_ids: list[int] | None = None) -> Group:
    samples = []
    for i, value in enumerate(values):
        sample_id = group_id * len(values) + i
        rollout_id = rollout_ids[i] if rollout_ids else sample_id
        score = Score(status="error", reason="no") if value is None else Score.scored(value)
        samples.append(Sample(group_id, sample_id, rollout_id, "p", [1], status=Status.COMPLETED, score=score))
    return Group(group_id, samples, source="held-out")


def share_of_subsets(passed: list[bool], k: int) -> float:
    """The slow reference: of all subsets of k samples, how many hold one that passed."""
    subsets = list(itertools.combinations(passed, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_sample_that_passed(passed: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(passed)))
    assert pass_at_k(len(passed), sum(passed), k) == pytest.approx(share_of_subsets(passed, k))


@given(st.integers(1, 5000), st.data())
def test_pass_at_k_of_many_samples_is_the_ratio_of_exact_binomials(num_samples: int, data: st.DataObject) -> None:
    num_passed = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    failed, total = math.comb(num_samples - num_passed, k), math.comb(num_samples, k)
    assert pass_at_k(num_samples, num_passed, k) == pytest.approx((total - failed) * 10**15 // total / 10**15, abs=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, 1, 5), (4, 1, 0), (0, 0, 1), (4, -1, 1)])
def test_pass_at_k_of_what_cannot_be_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


@given(st.lists(st.lists(VALUES, min_size=0, max_size=6), max_size=4))
def test_rates_are_the_mean_over_prompts_with_enough_scores_and_never_fall_with_k(
    prompts: list[list[float | None]],
) -> None:
    rates = pass_rates([make_group(values, i) for i, values in enumerate(prompts)], range(1, 7), threshold=1.0)
    for k in range(1, 7):
        scored = [[v >= 1.0 for v in values if v is not None] for values in prompts]
        expected = [share_of_subsets(passed, k) for passed in scored if len(passed) >= k]
        if expected:
            assert rates[k] == pytest.approx(sum(expected) / len(expected))
        else:
            assert k not in rates


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=8))
def test_more_tries_never_pass_less_often(values: list[float]) -> None:
    rates = list(pass_rates([make_group(values)], range(1, 9), threshold=1.0).values())
    assert rates == sorted(rates)
    assert all(0 <= rate <= 1 for rate in rates)


def test_siblings_of_a_fan_out_are_one_response_and_the_best_of_them_counts() -> None:
    group = make_group([0.0, 1.0, 0.0, None], rollout_ids=[0, 0, 1, 1])
    assert pass_rates([group], (1, 2), threshold=1.0) == {1: 0.5, 2: 1.0}
    assert list(pass_rate_metrics([group], "rollout/", 1.0)) == ["rollout/pass@1", "rollout/pass@2"]


def test_siblings_of_a_fan_out_weigh_as_one_response_in_the_mean() -> None:
    group = make_group([1.0, 0.0, None, 1.0], rollout_ids=[0, 0, 0, 1])
    metrics = eval_metrics("s", [group])
    assert metrics["eval/s"] == 0.75
    assert metrics["eval/s-unscored_ratio"] == 0.25


def test_k_goes_by_powers_of_two_up_to_the_groups_size() -> None:
    assert [default_ks(n) for n in (0, 1, 2, 6, 8)] == [(), (1,), (1, 2), (1, 2, 4), (1, 2, 4, 8)]


def test_the_threshold_says_what_passes() -> None:
    groups = [make_group([0.5, 0.9, 0.2, 0.7])]
    assert eval_metrics("s", groups)["eval/s-pass@1"] == 0.0
    assert eval_metrics("s", groups, pass_threshold=0.6)["eval/s-pass@1"] == pytest.approx(0.5)
    assert [k for k in eval_metrics("s", groups, ks=(3,)) if "pass@" in k] == ["eval/s-pass@3"]


def test_a_set_without_samples_has_no_metrics() -> None:
    assert eval_metrics("empty", []) == {}
    assert eval_metrics("empty", [Group(0, [])]) == {}


def test_a_set_without_a_score_has_shares_and_lengths_but_neither_mean_nor_pass_rate() -> None:
    metrics = eval_metrics("none", [make_group([None, None])])
    assert metrics["eval/none-unscored_ratio"] == 1.0
    assert metrics["eval/none-response_len_max"] == 0.0
    assert "eval/none" not in metrics
    assert not any("pass@" in name for name in metrics)


def test_named_parts_of_a_reward_have_means_of_their_own_beside_rewards_without_any() -> None:
    group = make_group([1.0, 0.0, None])
    group.samples[0].score = Score.scored(1.0, reward={"exact": 1, "short": 0.5}, components={"exact": 1, "short": 0.5})
    metrics = eval_metrics("mixed", [group])
    assert metrics["eval/mixed"] == 0.5
    assert metrics["eval/mixed-reward_short_mean"] == 0.5
    assert metrics["eval/mixed-unscored_ratio"] == pytest.approx(1 / 3)


@given(st.lists(st.lists(VALUES, max_size=5), max_size=4))
def test_metrics_of_anything_are_finite_and_one_of_them_at_most_is_the_mean(prompts: list[list[float | None]]) -> None:
    metrics = eval_metrics("held-out", [make_group(values, i) for i, values in enumerate(prompts)])
    assert all(math.isfinite(value) for value in metrics.values())
    scored = any(value is not None for values in prompts for value in values)
    assert [name for name in metrics if is_eval_mean(name)] == (["eval/held-out"] if scored else [])


def test_the_parts_of_a_reward_are_no_means_of_a_set() -> None:
    group = make_group([1.0])
    group.samples[0].score = Score.scored(1.0, components={"exact": 1.0})
    assert [name for name in eval_metrics("s", [group]) if is_eval_mean(name)] == ["eval/s"]


def test_samples_are_stored_by_set_and_step(tmp_path: Path) -> None:
    path = store_evaluation(tmp_path, "sums", 7, [make_group([1.0, None])])
    assert path == tmp_path / "eval" / "sums" / "000007.parquet"
    rows = pq.read_table(path).to_pylist()
    assert [row["value"] for row in rows] == [1.0, None]
    assert [row["score_reason"] for row in rows] == ["", "no"]


def test_a_resumed_run_evaluates_again_what_it_trains_again(tmp_path: Path) -> None:
    for step in (0, 2, 4):
        store_evaluation(tmp_path, "sums", step, [make_group([1.0])])
    RunDir(tmp_path).forget_from(2)
    assert [path.stem for path in (tmp_path / "eval" / "sums").iterdir()] == ["000000"]
