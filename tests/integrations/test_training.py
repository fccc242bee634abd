"""Runs of `slimrl train` on a small real model with the distributions in integrations/, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

INTEGRATIONS = Path(__file__).parents[2] / "integrations"
FLAGS = (
    *("--num-rollout", "2", "--rollout-batch-size", "2", "--n-samples-per-prompt", "4", "--apply-chat-template"),
    *("--run-dir", "run", "--num-threads", "2", "--use-dynamic-batch-size", "--max-tokens-per-gpu", "1024"),
)


def python(folder: Path, *words: str, path: str = "") -> None:
    """Run a module in a folder; what it said is told if it fails."""
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def samples(folder: Path) -> list[dict[str, Any]]:
    """Everything that a run sampled."""
    return [row for path in sorted(folder.glob("run/rollouts/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_reasoning_gym_trains_a_model(small_model: Path, tmp_path: Path) -> None:
    task = ("--task", "chain_sum", "--size", "8", "--set", "max_terms=2", "--set", "max_digits=1")
    python(tmp_path, "rl_reward_reasoning_gym", *task, "--output", "train.jsonl")
    reward = ("--rm-type", "reasoning_gym", "--reasoning-gym-answer", "last_number")
    data = ("--hf-checkpoint", str(small_model), "--prompt-data", "train.jsonl", "--label-key", "label")
    python(tmp_path, "slimrl", "train", *data, *reward, *FLAGS, "--rollout-max-response-len", "16")
    found = samples(tmp_path)
    assert len(found) == 16
    assert {row["score_status"] for row in found} == {"scored"}
    assert all(0 <= row["value"] <= 1 for row in found)


def test_a_verifiers_environment_of_several_turns_trains_a_model(small_model: Path, tmp_path: Path) -> None:
    environments = str(INTEGRATIONS / "rl-generator-verifiers/tests")
    settings = f"{environments}/hints.toml"
    python(
        tmp_path,
        *("rl_generator_verifiers", "--env", settings, "--size", "4", "--output", "train.jsonl"),
        path=environments,
    )
    play = ("--custom-generate-function-path", "verifiers", "--verifiers-env", settings, "--rm-type", "verifiers")
    data = ("--hf-checkpoint", str(small_model), "--prompt-data", "train.jsonl")
    python(
        tmp_path,
        *("slimrl", "train", *data, *play, *FLAGS, "--rollout-max-response-len", "40"),
        path=environments,
    )
    found = samples(tmp_path)
    assert len(found) == 16
    assert {row["score_status"] for row in found} == {"scored"}
    turns = [json.loads(row["components"])["turns"] for row in found]
    assert max(turns) > 1
    for row, count in zip(found, turns, strict=True):
        assert 0 < sum(row["loss_mask"]) <= 40
        assert (0 in row["loss_mask"]) == (count > 1)  # what the environment said is not trained on
        assert len(row["tokens"]) == len(row["log_probs"]) == len(row["loss_mask"])
