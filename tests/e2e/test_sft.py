"""Supervised fine-tuning through the CLI, in slime's spelling."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from .conftest import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEMPLATE = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<end> {% endif %}{% endfor %}"
FLAGS = (
    "--hf-checkpoint model --prompt-data talks.jsonl --input-key messages --rollout-shuffle --loss-type sft_loss "
    "--rollout-function-path slime.rollout.sft_rollout.generate_rollout --rollout-batch-size 8 "
    "--num-steps-per-rollout 2 --num-rollout 30 --lr 1e-2 --weight-decay 0 --use-dynamic-batch-size "
    "--run-dir run --num-threads 1 --save-interval 30"
)


def test_fine_tuning_learns_the_replies_without_an_engine(tmp_path: Path, tiny_checkpoint: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATE)
    talks = [[("user", f"{d}"), ("assistant", f"{d % 8 + 1}")] for d in range(1, 9)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    command = [sys.executable, "-m", "slimrl", "train", *FLAGS.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=700)

    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["train/loss"] > 1.5
    assert metrics[-1]["train/loss"] < 0.3
    assert metrics[-1]["train/perplexity"] < 1.4
    assert sorted(path.name for path in (tmp_path / "run" / "logs").iterdir()) == ["manager.log", "trainer.log"]
    shown = pq.read_table(tmp_path / "run" / "rollouts" / "000000.parquet").to_pylist()
    assert all(len(row["prompt_tokens"]) == 1 and row["loss_mask"] == [1, 1] for row in shown)
    replay = [sys.executable, "-m", "slimrl", "replay", "run", "--step", "2", "--catch-up"]
    again = subprocess.run(replay, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "1 of 1 agree, 0 not compared"), again.stderr
