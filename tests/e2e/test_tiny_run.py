"""The whole loop on a model that learns in seconds: engine, Ray, reward workers, trainer, run folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def mean_reward(rows: list[dict[str, float]], steps: slice) -> float:
    rewards = [row["rollout/reward_mean"] for row in rows if "rollout/reward_mean" in row][steps]
    return sum(rewards) / len(rewards)


@pytest.mark.parametrize("seed", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_a_model_from_scratch_learns_to_echo_a_digit(make_job: Callable[..., object], seed: str) -> None:
    job = make_job(rollout_seed=seed)
    done = job.run()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert [row["step"] for row in rows] == list(range(60))
    assert mean_reward(rows, slice(0, 1)) < 0.2
    assert mean_reward(rows, slice(55, 60)) > 0.7
    assert max(row.get("train/log_prob_abs_diff_max", 0.0) for row in rows) < 1e-4


@pytest.mark.gpu
def test_a_model_from_scratch_learns_on_a_gpu_that_engine_and_trainer_share(make_job: Callable[..., object]) -> None:
    job = make_job(rollout_seed="1", device="cuda")
    done = job.run()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert mean_reward(rows, slice(0, 1)) < 0.2
    assert mean_reward(rows, slice(55, 60)) > 0.7
    # both in bfloat16
    assert max(row.get("train/log_prob_abs_diff", 0.0) for row in rows) < 0.05


@pytest.mark.long
def test_ppo_with_a_critic_raises_the_reward_and_saves_both(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="30", advantage_estimator="ppo", num_critic_only_steps="2", save="saved")
    done = job.run()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert ["train/loss" in row for row in rows] == [False] * 2 + [True] * 28
    assert all("critic/value_loss" in row for row in rows)
    assert mean_reward(rows, slice(0, 2)) < 0.2
    assert mean_reward(rows, slice(25, 30)) > 0.5
    assert (job.folder / "saved" / "iter_0000030" / "critic" / "model" / "model.safetensors").exists()


@pytest.mark.long
def test_adapters_alone_learn_to_echo_a_digit(make_job: Callable[..., object]) -> None:
    """The output weight stays as it is; a new model's is too small to say anything for certain."""
    job = make_job(rollout_seed="3", num_rollout="30", lora_rank="16", save_hf="adapter")
    job.checkpoint = shutil.copytree(job.checkpoint, job.folder / "base")
    weights = job.checkpoint / "model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * 5}, weights, metadata={"format": "pt"})
    done = job.run()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert mean_reward(rows, slice(0, 1)) < 0.2
    assert mean_reward(rows, slice(25, 30)) > 0.7
    assert max(row.get("train/log_prob_abs_diff_max", 0.0) for row in rows) < 1e-4
    checkpoint = job.folder / "run" / "checkpoints" / "iter_0000030"
    assert not (checkpoint / "model").exists()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (checkpoint / "adapter" / name).read_bytes() == (job.folder / "adapter" / name).read_bytes()


def test_a_finished_run_leaves_a_folder_that_a_person_can_look_through(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="2", eval_interval="1", eval_temperature="0")
    done = job.run("--eval-prompt-data", "digits", "digits.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    run = job.folder / "run"
    names = {path.name for path in run.iterdir()}
    assert {"config.toml", "plugins.lock", "metrics.jsonl", "rollouts", "events.jsonl", "tensorboard", "logs"} <= names
    assert (run / "reward_curve.png").read_bytes().startswith(b"\x89PNG")
    samples = pq.read_table(run / "rollouts" / "000001.parquet").to_pylist()
    assert len(samples) == 64
    first = samples[0]
    assert len(first["tokens"]) == len(first["log_probs"]) == len(first["weight_versions"]) == len(first["loss_mask"])
    assert set(first["weight_versions"]) == {1}
    assert abs(sum(s["advantage"] for s in samples if s["group_id"] == first["group_id"])) < 1e-4
    assert [r["step"] for r in job.metrics() if "eval/digits" in r] == [0, 1, 2]
    locked = json.loads((run / "plugins.lock").read_text())
    assert any(str(row["reference"]).endswith("reward.py:score") for row in locked)
    assert "run" in done.stdout


def test_kill_9_in_the_middle_and_the_same_command_give_the_same_metrics(make_job: Callable[..., object]) -> None:
    flags = {"num_rollout": "7", "save_interval": "1", "n_samples_per_prompt": "4"}
    whole = make_job(**flags, run_dir="whole")
    done = whole.run("--deterministic")
    assert done.returncode == 0, done.stdout + done.stderr

    flags |= {"max_checkpoints_to_keep": "2", "save_hf": "hf/{rollout_id}"}
    killed = make_job(**flags, run_dir="killed", save="saved", load="saved")
    process = killed.start("--deterministic")
    try:
        wait_for(lambda: len(killed.metrics("killed")) >= 4, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(killed.metrics("killed")) < 7
    before, newest = sorted((killed.folder / "saved").glob("iter_*"))[-2:]
    weights = newest / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = killed.run("--deterministic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"{newest.relative_to(killed.folder)} is damaged: model/model.safetensors changed since it was written"
        in done.stderr
    )

    expected, found = repeatable(whole.metrics("whole")), repeatable(killed.metrics("killed"))
    assert [row["step"] for row in found] == list(range(7))
    assert found == expected
    events = [json.loads(line) for line in (killed.folder / "killed" / "events.jsonl").read_text().splitlines()]
    resumed_at = [event["step"] for event in events if event["event"] == "start"]
    assert resumed_at == [0, int(before.name.removeprefix("iter_"))]
    assert [event["event"] for event in events].count("checkpoint_damaged") == 1
    kept = sorted(path.name for path in (killed.folder / "saved").glob("iter_*"))
    assert kept == ["iter_0000006", "iter_0000007"]
    exported, saved = killed.folder / "hf" / "7", killed.folder / "saved" / kept[-1] / "model"
    assert (exported / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert {path.name for path in exported.iterdir()} == {path.name for path in saved.iterdir()}


@pytest.mark.long
def test_checkpoints_written_beside_the_steps_survive_kill_9_and_give_the_same_metrics(
    make_job: Callable[..., object],
) -> None:
    flags = {"num_rollout": "5", "save_interval": "1", "n_samples_per_prompt": "4"}
    whole = make_job(**flags, run_dir="whole")
    done = whole.run("--deterministic")
    assert done.returncode == 0, done.stdout + done.stderr

    killed = make_job(**flags, run_dir="killed", save="saved", load="saved", save_hf="hf/{rollout_id}")
    process = killed.start("--deterministic", "--async-save")
    try:
        wait_for(lambda: len(killed.metrics("killed")) >= 3, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(killed.metrics("killed")) < 5
    assert list((killed.folder / "saved").glob("iter_*"))
    done = killed.run("--deterministic", "--async-save")
    assert done.returncode == 0, done.stdout + done.stderr
    assert repeatable(killed.metrics("killed")) == repeatable(whole.metrics("whole"))
    events = [json.loads(line) for line in (killed.folder / "killed" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "start"][1] >= 1
    exported, saved = killed.folder / "hf" / "5", killed.folder / "saved" / "iter_0000005" / "model"
    assert (exported / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="at once"),
        pytest.param(("--async-save", "--save-interval", "1"), id="beside the steps", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_saves_and_says_how_to_go_on_and_all_listened_on_loopback(
    flags: tuple[str, ...], make_job: Callable[..., object]
) -> None:
    job = make_job(num_rollout="500")
    process = job.start(*flags)
    try:
        wait_for(lambda: len(job.metrics()) >= 2, process)
        assert listening(process.pid) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=300) == 130
    finally:
        process.kill()
    steps = len(job.metrics())
    said = (job.folder / "stdout").read_text()
    assert (job.folder / "run" / "checkpoints" / f"iter_{steps:07d}" / "complete.json").is_file()
    assert f"--load {job.folder / 'run' / 'checkpoints'}" in said.replace("\n", "")
    done = job.run("--load", "run/checkpoints", "--num-rollout", str(steps + 1))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in job.metrics()] == list(range(steps + 1))


def test_over_sampling_and_a_filter_keep_only_groups_that_teach(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="3", over_sampling_batch_size="12", n_samples_per_prompt="2")
    done = job.run("--dynamic-sampling-filter-path", "check_reward_nonzero_std")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert all(row["rollout/zero_std_groups"] == 0 and row["rollout/groups"] == 8 for row in rows)
    assert any(row.get("rollout/filter_dropped_zero_std", 0) > 0 for row in rows)


def test_an_engine_that_runs_already_is_used_and_left_running(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="2")
    port_file = job.folder / "port"
    serve = subprocess.Popen(
        [
            *job.command()[:3],
            "serve",
            "--model-path",
            str(job.checkpoint),
            "--port",
            "0",
            "--port-file",
            str(port_file),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port_file.exists, serve)
        done = job.run("--rollout-external-engine-addrs", f"127.0.0.1:{port_file.read_text().strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert serve.poll() is None
        rows = job.metrics()
        assert [row["rollout/staleness_max"] for row in rows] == [0, 0]
        assert max(row.get("train/log_prob_abs_diff_max", 0.0) for row in rows) < 1e-4
    finally:
        serve.terminate()
        serve.wait()


def listening(pid: int) -> set[str]:
    """Addresses on which a process and its descendants accept connections."""
    root = psutil.Process(pid)
    connections = [c for p in [root, *root.children(recursive=True)] for c in p.net_connections("inet")]
    found = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert found, "nothing listens at all"
    return found


def repeatable(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without times."""
    return [
        {name: value for name, value in row.items() if not name.startswith("perf/") and "seconds" not in name}
        for row in rows
    ]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 500) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
