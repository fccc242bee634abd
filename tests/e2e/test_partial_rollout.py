"""Partial rollout over a real engine and trainer: what was cut off goes on, and a kill loses and repeats nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLAGS = {
    "num_rollout": "6",
    "save_interval": "1",
    "rollout_batch_size": "4",
    "over_sampling_batch_size": "12",
    "n_samples_per_prompt": "4",
    "rollout_max_response_len": "48",
    "sglang_max_running_requests": "24",
}
SWITCHES = ("--partial-rollout", "--mask-offpolicy-in-partial-rollout")


def stored(run: Path) -> dict[int, list[dict[str, Any]]]:
    """The samples of each step of a run."""
    return {int(path.stem): pq.read_table(path).to_pylist() for path in sorted((run / "rollouts").glob("*.parquet"))}


def stored_ids(run: Path) -> list[int]:
    """The ids of all samples of a run, in order."""
    return sorted(sample["sample_id"] for step in stored(run).values() for sample in step)


def check_accounted_for(run: Path, checkpoints: Path, steps: int) -> None:
    """Every sample that was handed out is stored once, or waits in the buffer of the last checkpoint."""
    samples = [sample for step in stored(run).values() for sample in step]
    assert sorted(stored(run)) == list(range(steps))
    state = json.loads((checkpoints / f"iter_{steps:07d}" / "rollout.json").read_text())
    waiting = [sample["sample_id"] for group in state["buffer"] for sample in group["samples"]]
    ids = [sample["sample_id"] for sample in samples] + waiting
    assert sorted(ids) == list(range(4 * state["source"]["next_group_id"]))
    for sample in samples:
        length = len(sample["tokens"])
        assert length == len(sample["log_probs"]) == len(sample["loss_mask"]) == len(sample["weight_versions"]) <= 48
        assert sample["weight_versions"] == sorted(sample["weight_versions"])
        assert sample["status"] in ("completed", "truncated")


def test_what_was_cut_off_goes_on_under_new_weights_and_its_old_tokens_are_not_trained(
    make_job: Callable[..., Any],
) -> None:
    job = make_job(**FLAGS)
    done = job.run(*SWITCHES)
    assert done.returncode == 0, done.stdout + done.stderr
    run = job.folder / "run"
    check_accounted_for(run, run / "checkpoints", 6)
    went_on = 0
    for step, samples in stored(run).items():
        for sample in samples:
            versions, mask = sample["weight_versions"], sample["loss_mask"]
            assert max(versions) <= step
            if len(set(versions)) > 1:
                went_on += 1
                assert mask == [int(version == versions[-1]) for version in versions]
            elif versions[0] == step:
                assert set(mask) == {1}
    assert went_on > 0
    rows = job.metrics()
    assert sum(row["rollout/continued_samples"] for row in rows) == went_on
    assert max(row["rollout/buffer_tokens"] for row in rows) > 0


@pytest.mark.long
def test_kill_9_at_a_random_point_and_the_same_command_lose_and_repeat_nothing(make_job: Callable[..., Any]) -> None:
    whole = make_job(**FLAGS, run_dir="whole", save="whole-saved")
    done = whole.run(*SWITCHES)
    assert done.returncode == 0, done.stdout + done.stderr
    check_accounted_for(whole.folder / "whole", whole.folder / "whole-saved", 6)

    killed = make_job(**FLAGS, run_dir="killed", save="saved", load="saved")
    process = killed.start(*SWITCHES)
    chance = random.Random()
    try:
        wait_for_steps(killed, chance.randint(1, 4), process)
        time.sleep(chance.random() / 2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = killed.run(*SWITCHES)
    assert done.returncode == 0, done.stdout + done.stderr
    check_accounted_for(killed.folder / "killed", killed.folder / "saved", 6)

    # in which step a prompt is trained on is a matter of timing; that it is, once, is not
    assert stored_ids(killed.folder / "killed") == stored_ids(whole.folder / "whole") == list(range(6 * 4 * 4))


@pytest.mark.long
def test_over_sampling_a_filter_and_a_fallback_go_with_partial_rollout(make_job: Callable[..., Any]) -> None:
    job = make_job(**{**FLAGS, "max_sampling_rounds": "3", "num_rollout": "4"})
    filters = ("--dynamic-sampling-filter-path", "check_reward_nonzero_std", "--on-insufficient", "fallback")
    done = job.run(*SWITCHES, *filters, "--buffer-filter-path", "by_staleness")
    assert done.returncode == 0, done.stdout + done.stderr
    run = job.folder / "run"
    check_accounted_for(run, run / "checkpoints", 4)
    rows, events = job.metrics(), [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert all(row["rollout/groups"] == 4 for row in rows)
    told = [event for event in events if event["event"] == "insufficient"]
    assert sum(len(event["taken"]) for event in told) == sum(row["rollout/fallback_groups"] for row in rows)
    for samples in stored(run).values():
        for sample in samples:
            assert sample["kept"] or sample["verdict_reason"]


def wait_for_steps(job: Any, steps: int, process: Any) -> None:
    deadline = time.monotonic() + 500
    while len(job.metrics("killed")) < steps:
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
