"""What a person sees of a run, and where its time went."""

from __future__ import annotations

import io
import os
from pathlib import Path

from rich.console import Console

from slimrl.observe.clock import StepClock
from slimrl.observe.cpu import ProcessMeter
from slimrl.observe.progress import StepProgress
from slimrl.observe.run_dir import RunDir
from slimrl.observe.summary import print_summary, time_split

ROW = {
    "step": 0,
    "rollout/reward_mean": 0.25,
    "rollout/response_len_mean": 9.5,
    "rollout/num_tokens": 608.0,
    "perf/step_s": 4.0,
    "perf/generate_s": 2.0,
    "perf/train_s": 1.0,
    "perf/tokens_per_s": 152.0,
}


def test_one_line_a_step_says_reward_speed_and_where_the_time_goes() -> None:
    console = Console(file=io.StringIO(), width=40)
    with StepProgress(10, 0, console=console, live=True) as progress:
        progress.step_done(2, ROW)
        progress.evaluated(3, {"eval/sums": 0.5, "eval/sums-truncated_ratio": 0.1})
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 3/10  reward 0.250  length 9.5  152 tok/s  4.0 s: generate 50%, train 25%\n" in said
    assert "eval at step 3  sums 0.500\n" in said


def test_a_silent_run_prints_nothing() -> None:
    console = Console(file=io.StringIO())
    with StepProgress(10, 0, console=console, live=False) as progress:
        progress.step_done(2, ROW)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_the_summary_tells_first_and_last_rewards_of_training_and_held_out_sets(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log_metrics(0, {"eval/sums": 0.1, "eval/sums-response_len_mean": 9.0})
    run.log_metrics(0, ROW)
    run.log_metrics(1, {**ROW, "rollout/reward_mean": 0.75})
    run.log_metrics(2, {"eval/sums": 0.9})
    console = Console(file=io.StringIO(), width=200)
    print_summary(run, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    training = next(line for line in said.splitlines() if "training" in line)
    held_out = next(line for line in said.splitlines() if "held-out sums" in line)
    assert "0.250" in training
    assert "0.750" in training
    assert "0.100" in held_out
    assert "0.900" in held_out
    assert str(tmp_path) in said


def test_the_time_that_no_phase_claims_is_other() -> None:
    assert time_split([ROW, {"step": 1}]) == {"generate": 0.5, "train": 0.25, "other": 0.25}
    assert time_split([]) == {}


def test_the_clock_counts_the_cpu_of_this_process_as_the_drivers() -> None:
    clock = StepClock(ProcessMeter())
    with clock.phase("generate", StepProgress(1, 0, console=Console(file=io.StringIO()), live=False)):
        started = os.times()
        while os.times().user - started.user < 0.1:
            sum(range(1000))
    metrics = clock.metrics({"rollout/num_tokens": 10.0})
    assert metrics["perf/cpu_driver_s"] >= 0.09
    assert metrics["perf/generate_s"] >= 0.09
    assert metrics["perf/step_s"] >= metrics["perf/generate_s"]
