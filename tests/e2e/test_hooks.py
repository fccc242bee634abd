"""Every function that a flag may name, called by whole runs, in slime's shape and in ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from slimrl.registry import RUN_HOOKS

from .conftest import Job, environment

HERE = Path(__file__).parent
OF_LOSS = {"custom_advantage", "custom_tis", "custom_loss", "pg_loss_reducer"}
"""Called in tests/unit/megatron/test_functions.py."""


def marks(job: Job) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (job.folder / "marks.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry.pop("hook"), []).append(entry)
    return found


def samples(job: Job, step: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(job.folder / f"run/rollouts/{step:06d}.parquet").to_pylist()
    return rows


def prepared(make_job: Callable[..., Job], file: str, **flags: str) -> Job:
    own = {"rollout_batch_size": "2", "n_samples_per_prompt": "2", "num_rollout": "1", "lr": "1e-3"}
    job = make_job(**own, **{name: f"hooks.py:{function}" for name, function in flags.items()})
    shutil.copy(HERE / file, job.folder / "hooks.py")
    return job


def run_without_prompt_data(job: Job, *extra: str) -> subprocess.CompletedProcess[str]:
    command = job.command(*extra)
    place = command.index("--prompt-data")
    del command[place : place + 2]
    return subprocess.run(
        command, cwd=job.folder, env=environment(), capture_output=True, text=True, timeout=700, check=False
    )


def test_a_run_calls_every_function_that_is_written_for_slime(make_job: Callable[..., Job]) -> None:
    job = prepared(
        make_job,
        "slime_hooks.py",
        custom_generate_function_path="generate",
        rollout_sample_filter_path="sample_filter",
        rollout_all_samples_process_path="all_samples",
        custom_reward_post_process_path="post_process",
        rollout_data_postprocess_path="data_postprocess",
        data_source_path="Source",
        custom_rollout_log_function_path="rollout_log",
        eval_function_path="evaluate",
        custom_eval_rollout_log_function_path="eval_log",
    )
    hooks = ["--rollout-sample-hook-path", "hooks.py:sample_hook", "hooks.py:second_sample_hook"]
    done = run_without_prompt_data(job, *hooks, "--eval-interval", "1", "--save", "checkpoints")
    assert done.returncode == 0, done.stdout + done.stderr

    seen = marks(job)
    assert [entry["max_new"] for entry in seen["generate"]] == [4] * 4
    assert {entry["rollout_id"] for entry in seen["sample_hook"]} == {0}
    assert len(seen["second_sample_hook"]) == 4
    assert seen["sample_filter"][0]["sizes"] == [2, 2]
    assert seen["all_samples"] == [{"groups": 2, "rows": 8, "label": "mine", "pid": seen["generate"][0]["pid"]}]
    assert seen["post_process"][0]["count"] == 4
    assert seen["data_postprocess"][0]["pid"] != seen["generate"][0]["pid"]
    assert [(entry["rollout_id"], entry["evaluation"]) for entry in seen["evaluate"]] == [(0, True), (1, True)]

    rows = samples(job, 0)
    assert json.loads(rows[0]["metadata"]) == {"from": "class", "seen": "step 0", "seen_again": "step 0"}
    assert set(rows[0]["loss_mask"]) == {0}
    assert [sum(row["loss_mask"]) for row in rows[1:]] == [len(row["tokens"]) for row in rows[1:]]
    assert [row["advantage"] for row in rows] == [0.0, 7.0, *(row["value"] - 0.5 for row in rows[2:])]
    trained = next(row for row in job.metrics() if "train/loss" in row)
    assert not [name for name in trained if name.startswith("rollout/")]
    assert trained["train/num_tokens"] == sum(sum(row["loss_mask"]) for row in rows) - 1
    evaluated = [(row["step"], row["eval/own"], row["eval/added"]) for row in job.metrics() if "eval/own" in row]
    assert evaluated == [(0, 0.5, 3.0), (1, 0.5, 3.0)]
    lock = {entry["kind"] for entry in json.loads((job.folder / "run/plugins.lock").read_text())}
    assert lock >= set(RUN_HOOKS) - OF_LOSS - {"rollout_function", "train_data_converter"}

    (state,) = (job.folder / "checkpoints").glob("*/rollout.json")
    assert list(json.loads(state.read_text())["source"]["state"]["files"]) == ["at.json"]


def test_a_run_calls_every_function_of_ours(make_job: Callable[..., Job]) -> None:
    job = prepared(
        make_job,
        "our_hooks.py",
        rollout_function_path="rollout_function",
        rollout_sample_hook_path="sample_hook",
        rollout_sample_filter_path="sample_filter",
        rollout_all_samples_process_path="all_samples",
        custom_reward_post_process_path="post_process",
        custom_convert_samples_to_train_data_path="convert",
        rollout_data_postprocess_path="data_postprocess",
        data_source_path="make_source",
        custom_rollout_log_function_path="rollout_log",
        eval_function_path="evaluate",
        custom_eval_rollout_log_function_path="eval_log",
    )
    done = job.run("--eval-interval", "1", "--eval-prompt-data", "held", "digits.jsonl", "--skip-eval-before-train")
    assert done.returncode == 0, done.stdout + done.stderr

    seen = marks(job)
    lock = {entry["kind"] for entry in json.loads((job.folder / "run/plugins.lock").read_text())}
    assert lock >= set(RUN_HOOKS) - OF_LOSS
    assert len(seen["sample_hook"]) == 3 * 2 + 2
    assert seen["all_samples"] == [{"groups": [0, 1, 2]}]
    assert seen["convert"] == [{"count": 4, "groups": 2}]
    assert seen["eval_log"] == [{"step": 1, "sets": ["held"]}]
    rows = samples(job, 0)
    assert [row["verdict_reason"] for row in rows if not row["kept"]] == ["rollout_function"] * 2
    kept = [row for row in rows if row["kept"]]
    assert set(kept[0]["loss_mask"]) == {0}
    assert [row["advantage"] for row in kept] == [9.0, *(2 * (row["value"] - 0.5) for row in kept[1:])]
    (trained,) = [row for row in job.metrics() if "train/loss" in row]
    assert (trained["rollout/mine"], trained["rollout/added"], trained["rollout/removed_samples"]) == (5, 4, 1)
    assert not [row for row in job.metrics() if "eval/mine" in row]
    assert (job.folder / "run/eval/held/000001.parquet").exists()


def test_a_run_is_filled_and_converted_by_functions_that_are_written_for_slime(make_job: Callable[..., Job]) -> None:
    job = prepared(
        make_job,
        "slime_hooks.py",
        rollout_function_path="generate_rollout",
        custom_convert_samples_to_train_data_path="convert",
    )
    done = job.run()
    assert done.returncode == 0, done.stdout + done.stderr
    seen = marks(job)
    assert [(entry["rollout_id"], entry["groups"]) for entry in seen["generate_rollout"]] == [(0, 3)]
    assert seen["generate_rollout"][0]["thread"] != "MainThread"
    assert seen["convert"][0]["count"] == 4
    rows = samples(job, 0)
    assert [row["advantage"] for row in rows] == [3.0] * 4
    assert [row["value"] for row in rows[:2]] == [0.0, 1.0]
    assert all(row["score_status"] == "scored" for row in rows)
    (trained,) = [row for row in job.metrics() if "train/loss" in row]
    assert trained["rollout/buffer_groups"] == 1
