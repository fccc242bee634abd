"""`slimrl eval` of a checkpoint and the evaluation of `slimrl train` under the same weights are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FAN_OUT = """
import copy

async def generate(sample, sampling, engine):
    completion = await engine.generate(sample.prompt_tokens, sampling)
    middle = len(completion.tokens) // 2
    rest = copy.deepcopy(sample)
    rest.prompt_tokens = sample.prompt_tokens + completion.tokens[:middle]
    for one, part in ((sample, slice(0, middle)), (rest, slice(middle, None))):
        one.append(completion.tokens[part], completion.log_probs[part], completion.weight_versions[part])
        one.status = "completed" if completion.finish_reason == "stop" else "truncated"
    return [sample, rest]
"""

EVALUATION = [
    *("--eval-prompt-data", "digits", "digits.jsonl", "first", "digits.jsonl@[:3]"),
    *("--n-samples-per-eval-prompt", "4", "--eval-pass-threshold", "0.5", "--eval-temperature", "0.7"),
    *("--custom-generate-function-path", "fan_out.py:generate"),
    *("--rollout-seed", "7", "--deterministic", "--num-threads", "1", "--custom-rm-path", "reward.py:score"),
]


def evaluate(folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "slimrl", "eval", *EVALUATION, "--rollout-max-response-len", "4", "--json", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=700,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("eval/") and "seconds" not in name}


def responses(path: Path) -> list[list[int]]:
    return [row["tokens"] for row in pq.read_table(path).to_pylist()]


def rollouts(path: Path) -> list[int]:
    """How many samples each rollout has."""
    return sorted(Counter(pq.read_table(path).to_pydict()["rollout_id"]).values())


def test_a_checkpoint_evaluated_by_itself_gives_the_numbers_of_training(make_job: Callable[..., Any]) -> None:
    """With a generator whose samples are two siblings each, one rollout in the loss and in pass@k."""
    job = make_job(num_rollout="2", eval_interval="1")
    (job.folder / "fan_out.py").write_text(FAN_OUT)
    done = job.run(*EVALUATION, "--log-passrate", "--save", "saved")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    trained = {row["step"]: timeless(row) for row in rows if "eval/digits" in row}
    assert sorted(trained) == [0, 1, 2]
    assert all(0 <= row["rollout/pass@8"] <= 1 for row in rows if "rollout/reward_mean" in row)

    before = evaluate(job.folder, "--hf-checkpoint", str(job.checkpoint), "--output", "before")
    assert timeless(before["metrics"]) == trained[0]
    assert {"eval/digits-pass@1", "eval/digits-pass@2", "eval/digits-pass@4", "eval/first-pass@4"} <= set(trained[0])

    # whichever of two engines a sample went to
    after = evaluate(job.folder, "--load", "saved", "--output", "after", "--rollout-num-gpus", "2")
    assert after["step"] == 2
    assert timeless(after["metrics"]) == trained[2] != trained[0]
    for name in ("digits", "first"):
        for step, folder in ((0, "before"), (2, "after")):
            stored = Path("eval", name, f"{step:06d}.parquet")
            assert responses(job.folder / folder / stored) == responses(job.folder / "run" / stored)
    assert not any("pass@8" in name for name in trained[0])
    assert rollouts(job.folder / "run" / "eval" / "digits" / "000000.parquet") == [2] * 8 * 4
    assert rollouts(job.folder / "run" / "rollouts" / "000000.parquet") == [2] * 8 * 8
