"""Whole runs of `slimrl train` on the tiny model, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REWARD = '''
def score(sample):
    """The share of four replies that repeat the prompt."""
    return sum(token == sample.prompt_tokens[0] for token in sample.tokens) / 4
'''


@dataclass
class Job:
    """A folder with data, a reward and the flags of a run."""

    folder: Path
    checkpoint: Path
    flags: dict[str, str] = field(default_factory=dict)

    def command(self, *extra: str) -> list[str]:
        flags = {
            "--hf-checkpoint": str(self.checkpoint),
            "--prompt-data": "digits.jsonl",
            "--custom-rm-path": "reward.py:score",
            "--rollout-batch-size": "8",
            "--n-samples-per-prompt": "8",
            "--rollout-max-response-len": "4",
            "--num-rollout": "60",
            "--lr": "3e-3",
            "--weight-decay": "0",
            "--adam-beta2": "0.95",
            "--run-dir": "run",
            "--num-threads": "1",
            **self.flags,
        }
        arguments = [part for flag, value in flags.items() for part in (flag, value)]
        return [sys.executable, "-m", "slimrl", "train", "--rollout-shuffle", *arguments, *extra]

    def run(self, *extra: str, timeout_s: float = 700) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*extra), cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=timeout_s
        )

    def start(self, *extra: str) -> subprocess.Popen[str]:
        with (self.folder / "stdout").open("w") as output:
            return subprocess.Popen(
                self.command(*extra),
                cwd=self.folder,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def metrics(self, run: str = "run") -> list[dict[str, float]]:
        path = self.folder / run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def environment() -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.fixture
def make_job(tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., Job]:
    """A job in a fresh folder; keyword arguments are flags with _ for -."""

    def make(**flags: str) -> Job:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        (folder / "digits.jsonl").write_text("".join(json.dumps({"input": str(d)}) + "\n" for d in range(1, 9)))
        (folder / "reward.py").write_text(REWARD)
        return Job(folder, tiny_checkpoint, {f"--{name.replace('_', '-')}": value for name, value in flags.items()})

    return make
