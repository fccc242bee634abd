"""An environment that answers in turns, over a real engine and trainer, with samples that are cut off between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENVIRONMENT = """
def answer(sample, reply):
    sample.metadata["turns"] = sample.metadata.get("turns", 0) + 1
    return "5 5" if sample.metadata["turns"] < 3 else None
"""
FLAGS = {
    "num_rollout": "3",
    "rollout_batch_size": "4",
    "over_sampling_batch_size": "12",
    "n_samples_per_prompt": "4",
    "rollout_max_response_len": "48",
    "sglang_max_running_requests": "24",
    "custom_generate_function_path": "multi_turn",
    "environment_path": "environment.py:answer",
    "max_turns": "3",
}


@pytest.mark.long
def test_a_conversation_goes_on_where_it_was_cut_off_and_only_the_models_tokens_are_trained_on(
    make_job: Callable[..., Any],
) -> None:
    job = make_job(**FLAGS)
    (job.folder / "environment.py").write_text(ENVIRONMENT)
    done = job.run("--partial-rollout", "--mask-offpolicy-in-partial-rollout")
    assert done.returncode == 0, done.stdout + done.stderr
    samples = [
        sample
        for step in range(3)
        for sample in pq.read_table(job.folder / f"run/rollouts/{step:06d}.parquet").to_pylist()
    ]
    assert len(samples) == 48
    several = 0
    for sample in samples:
        assert sample["status"] in ("completed", "truncated"), sample["reason"]
        assert len(sample["prompt_tokens"]) + len(sample["tokens"]) <= 64
        metadata = json.loads(sample["metadata"])
        roles = [message["role"] for message in metadata["multi_turn"]["messages"]]
        assert roles == ["assistant", "user", "assistant", "user", "assistant"][: len(roles)]
        assert metadata["turns"] == roles.count("assistant")
        if len(set(sample["weight_versions"])) == 1:
            told = [
                [token for token, _ in run]
                for mask, run in groupby(zip(sample["tokens"], sample["loss_mask"], strict=True), lambda pair: pair[1])
                if not mask
            ]
            assert told == [[4, 4]] * roles.count("user")
        else:
            several += roles.count("user") > 0
    assert several > 0
    first = next(row for row in job.metrics() if "train/log_prob_abs_diff_max" in row)
    assert first["train/log_prob_abs_diff_max"] < 1e-4  # later steps train tokens of older weights
