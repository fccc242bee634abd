"""Runs whose trainer is two processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    "flags",
    [("--use-distributed-optimizer",), ("--tensor-model-parallel-size", "2", "--sequence-parallel")],
    ids=["data parallel", "tensor parallel"],
)
def test_the_engine_gets_the_weights_of_two_trainer_processes(
    flags: tuple[str, ...], make_job: Callable[..., Any]
) -> None:
    job = make_job(num_rollout="3", rollout_batch_size="4", n_samples_per_prompt="4")
    two = job.run("--actor-num-gpus-per-node", "2", *flags, "--save", "saved")
    assert two.returncode == 0, two.stderr
    # equal only if the engine has what the processes have together
    assert all(row["train/log_prob_abs_diff_max"] < 1e-3 for row in job.metrics() if "train/grad_norm" in row)
    assert (job.folder / "saved").is_dir()


def test_a_layout_that_does_not_fit_is_refused_before_anything_starts(make_job: Callable[..., Any]) -> None:
    job = make_job(num_rollout="1")
    refused = job.run("--actor-num-gpus-per-node", "3", "--tensor-model-parallel-size", "3", "--dry-run")
    assert refused.returncode == 2
    assert "--tensor-model-parallel-size 3 does not divide the model's 4 attention heads" in refused.stderr
