"""Asynchronous training over a real engine and trainer: it learns, in its bound; a kill loses and repeats nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def stored(run: Path) -> dict[int, list[dict[str, Any]]]:
    """The samples of each step of a run."""
    return {int(path.stem): pq.read_table(path).to_pylist() for path in sorted((run / "rollouts").glob("*.parquet"))}


@pytest.mark.long
def test_a_fully_asynchronous_run_learns_and_no_token_is_older_than_the_bound(make_job: Callable[..., Any]) -> None:
    job = make_job(max_staleness="2", num_rollout="70")
    done = job.run("--async", "--dynamic-sampling-filter-path", "check_reward_nonzero_std_with_fallback")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    rewards = [row["rollout/reward_mean_unfiltered"] for row in rows]
    assert sum(rewards[:3]) / 3 < 0.2
    assert sum(rewards[-3:]) / 3 > 0.6
    assert max(row["rollout/staleness_max"] for row in rows) in (1, 2)
    for step, samples in stored(job.folder / "run").items():
        for sample in (s for s in samples if s["kept"]):
            assert all(step - 2 <= version <= step for version in sample["weight_versions"])
    assert all({"rollout/queue_groups", "perf/rollout_idle_share", "perf/trainer_idle_share"} <= set(r) for r in rows)


def test_with_keep_old_actor_old_log_probs_are_those_of_the_weights_that_generated(
    make_job: Callable[..., Any],
) -> None:
    job = make_job(max_staleness="2", num_rollout="8")
    done = job.run("--async", "--keep-old-actor")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert max(row["rollout/staleness_max"] for row in rows) >= 1
    # the engine's, computed again: with the current weights they would be far off
    assert max(row["train/log_prob_abs_diff_max"] for row in rows if "train/log_prob_abs_diff_max" in row) < 1e-3
    assert all(row["perf/train_keep_s"] > 0 for row in rows)


@pytest.mark.long
def test_kill_9_of_an_asynchronous_run_and_the_same_command_lose_and_repeat_nothing(
    make_job: Callable[..., Any],
) -> None:
    job = make_job(save="saved", load="saved", num_rollout="12", save_interval="2", max_staleness="3")
    process = job.start("--async")
    deadline = time.monotonic() + 200
    try:
        while len(job.metrics()) < 5:
            assert process.poll() is None, (job.folder / "stdout").read_text()
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = job.run("--async")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = stored(job.folder / "run")
    assert sorted(steps) == list(range(12))
    ids = [sample["sample_id"] for samples in steps.values() for sample in samples]
    assert len(ids) == len(set(ids)) == 12 * 64
    assert set(ids) == set(range(12 * 64)), "nothing was generated that no step trained on"
