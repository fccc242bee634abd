"""Warnings on synthetic series of metrics: when they begin, that they are told once, and when they are over."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from slimrl.observe.notices import NUM_FIRST, PATIENCE, RULES, Notice, Watch, ongoing, tell, watch_of
from slimrl.observe.run_dir import RunDir
from slimrl.observe.summary import print_summary

CALM = {
    "rollout/groups_finished": 10.0,
    "rollout/zero_std_groups": 2.0,
    "rollout/reward_max": 1.0,
    "rollout/reward_mean_unfiltered": 0.5,
    "rollout/response_len_mean": 100.0,
    "rollout/truncated_ratio": 0.1,
    "train/num_over_long_samples": 0.0,
    "train/entropy": 0.5,
    "train/log_prob_abs_diff": 0.01,
    "train/ppo_kl": 0.001,
    "train/kl_loss": 0.02,
}
ASTRAY: dict[str, list[dict[str, float]]] = {
    "reward_saturated": [{"rollout/reward_mean_unfiltered": 0.99}],
    "zero_variance": [{"rollout/zero_std_groups": 9.0}, {"rollout/filter_dropped_zero_std": 7.0}],
    "engine_drift": [{"train/log_prob_abs_diff": 0.06}],
    "policy_jump": [{"train/ppo_kl": 0.2}, {"train/ppo_kl": -0.2}],
    "reference_drift": [{"train/kl_loss": 1.5}],
    "length_collapse": [{"rollout/response_len_mean": 29.0}],
    "length_explosion": [{"rollout/response_len_mean": 301.0}],
    "truncation": [{"rollout/truncated_ratio": 0.4}],
    "over_long_samples": [{"train/num_over_long_samples": 1.0}],
    "entropy_collapse": [{"train/entropy": 0.04}],
}


def seen(watch: Watch, rows: Iterable[dict[str, float]]) -> list[Notice]:
    return [notice for step, row in enumerate(rows) for notice in watch.see(step, row)]


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in ASTRAY for change in ASTRAY[name]])
def test_a_warning_is_told_once_when_it_begins_and_once_when_it_is_over(name: str, change: dict[str, float]) -> None:
    rows = [CALM] * NUM_FIRST + [CALM | change] * 10 + [CALM] * 10
    begins, over = seen(Watch(), rows)
    assert (begins.name, begins.step, begins.begins) == (name, NUM_FIRST + PATIENCE - 1, True)
    assert (over.name, over.step, over.begins) == (name, NUM_FIRST + 10 + PATIENCE - 1, False)
    assert "{" not in begins.message


def test_every_rule_has_a_series_that_goes_astray() -> None:
    assert ASTRAY.keys() == {rule.name for rule in RULES}


def test_the_docs_list_every_warning_with_its_limit() -> None:
    docs = (Path(__file__).parents[3] / "docs/metrics.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in docs.splitlines() if line.startswith("| `")}
    assert all(f"{rule.limit:g}" in rows[rule.name] for rule in RULES)


@pytest.mark.parametrize("pattern", [[1, 0] * 10, [1, 1, 0] * 7])
def test_steps_that_go_astray_now_and_then_are_no_warning(pattern: Sequence[int]) -> None:
    rows = [CALM | ASTRAY["truncation"][0] if bad else CALM for bad in pattern]
    assert seen(Watch(), rows) == []


def test_metrics_that_a_step_lacks_change_nothing() -> None:
    rows = [CALM, {}, CALM | ASTRAY["truncation"][0], {}, *[CALM | ASTRAY["truncation"][0]] * 2]
    assert [notice.step for notice in seen(Watch(), rows)] == [5]


def test_a_reward_without_a_top_above_zero_is_never_saturated() -> None:
    row = CALM | {"rollout/reward_max": 0.0, "rollout/reward_mean_unfiltered": 0.0}
    assert seen(Watch(), [row] * 10) == []


def test_a_resumed_run_does_not_tell_again_what_its_metrics_already_show(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    bad = CALM | ASTRAY["truncation"][0]
    for step in range(4):
        run.log_metrics(step, bad)
    watch = watch_of(run)
    assert watch.see(4, bad) == []
    assert [watch.see(step, CALM) for step in (5, 6)] == [[], []]
    assert [notice.name for notice in watch.see(7, CALM)] == ["truncation"]


def test_warnings_are_events_lines_for_the_reader_and_in_the_summary_until_they_are_over(tmp_path: Path) -> None:
    run, lines = RunDir(tmp_path), list[str]()
    tell(run, [Notice("truncation", 4, True, "40% cut off"), Notice("zero_variance", 5, True, "flat")], lines.append)
    tell(run, [Notice("zero_variance", 9, False, "over")], lines.append)
    assert lines[0] == "[yellow]warning truncation[/] at step 4: 40% cut off"
    assert [event["event"] for event in run.read_events()] == ["warning", "warning", "warning_over"]
    assert ongoing(run) == {"truncation": 4}
    console = Console(file=io.StringIO(), width=200)
    print_summary(run, console)
    assert "warning truncation, since step 4" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_warning_of_steps_that_a_resumed_run_makes_again_is_forgotten(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.event("start", step=0)
    tell(run, [Notice("truncation", 3, True, "40% cut off"), Notice("zero_variance", 6, True, "flat")], lambda _: None)
    tell(run, [Notice("truncation", 7, False, "over")], lambda _: None)
    assert ongoing(run) == {"zero_variance": 6}
    run.event("start", step=5)
    assert ongoing(run) == {"truncation": 3}
