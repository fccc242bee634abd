"""Whole runs without any reward: the policy learns from a teacher, in the trainer or behind an engine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command

from .conftest import Job, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it was taught to repeat the prompt four times."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    digits = torch.arange(8)[:, None].repeat(1, 5)
    for _ in range(60):
        loss = model(digits, labels=digits).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    folder = tmp_path_factory.mktemp("teacher") / "model"
    shutil.copytree(tiny_checkpoint, folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def url(teacher: Path, tmp_path: Path) -> Iterator[str]:
    settings = EngineSettings(teacher, device="cpu", dtype="float32", num_threads=1)
    process = EngineProcess(embedded_command(settings), tmp_path / "teacher.log")
    try:
        yield process.start()
    finally:
        process.stop()


def run_without_reward(job: Job, *extra: str) -> None:
    command = job.command("--use-opd", *extra)
    place = command.index("--custom-rm-path")
    del command[place : place + 2]
    done = subprocess.run(
        command, cwd=job.folder, env=environment(), capture_output=True, text=True, timeout=700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def repeated(job: Job, step: int) -> float:
    """The share of response tokens that repeat the prompt."""
    rows = pq.read_table(job.folder / f"run/rollouts/{step:06d}.parquet").to_pylist()
    hits = [token == row["prompt_tokens"][0] for row in rows for token in row["tokens"]]
    return sum(hits) / len(hits)


def replay(job: Job) -> dict[str, Any]:
    words = [job.command()[0], "-m", "slimrl", "replay", "run", "--json"]
    done = subprocess.run(words, cwd=job.folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
def test_a_policy_learns_what_a_teacher_in_the_trainer_knows(make_job: Callable[..., Job], teacher: Path) -> None:
    job = make_job(num_rollout="40", opd_type="megatron", opd_teacher_load=str(teacher))
    run_without_reward(job)
    rows = [row for row in job.metrics() if "train/opd_reverse_kl" in row]
    assert rows[-1]["train/opd_reverse_kl"] < 0.2 * rows[0]["train/opd_reverse_kl"]
    assert rows[0]["train/num_skipped_samples"] == 0
    assert (repeated(job, 0) < 0.3, repeated(job, 39) > 0.8) == (True, True)
    assert not [event for event in events(job) if event.get("warning") == "zero_variance"]


def test_a_teacher_behind_an_engine_says_the_same_and_its_steps_can_be_replayed(
    make_job: Callable[..., Job], teacher: Path, url: str
) -> None:
    own = {"num_rollout": "2", "n_samples_per_prompt": "2", "save_interval": "1"}
    job = make_job(**own, opd_type="sglang", opd_teacher_url=url)
    run_without_reward(job, "--deterministic")
    behind = job.metrics()
    found = replay(job)
    assert (found["agrees"], {check["name"] for check in found["checks"] if not check["compared"]}) == (
        True,
        {"verdicts"},
    )
    shutil.move(job.folder / "run", job.folder / "other")
    job = make_job(**own, opd_type="megatron", opd_teacher_load=str(teacher))
    run_without_reward(job, "--deterministic")
    for one, other in zip(behind, job.metrics(), strict=True):
        for name in ("train/opd_reverse_kl", "train/loss", "train/grad_norm", "rollout/reward_mean"):
            assert one.get(name) == pytest.approx(other.get(name), rel=1e-3, abs=1e-6), name


def events(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "run/events.jsonl").read_text().splitlines()]
