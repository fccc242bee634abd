"""Agents with the real `openai` client, inside the run and in processes of their own, trained through the endpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{% if message.role == 'assistant' %} <end>{% endif %} "
    "{% endfor %}"
)
AGENT = """
import json
import sys

from openai import AsyncOpenAI, OpenAI


async def act(base_url, api_key, sample):
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": sample.prompt}])


if __name__ == "__main__":
    client = OpenAI()
    messages = [{"role": "user", "content": json.loads(sys.stdin.readline())["prompt"]}]
    text = ""
    for chunk in client.chat.completions.create(model="tiny", messages=messages, max_tokens=2, stream=True):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "5 5"}]
    client.chat.completions.create(model="tiny", messages=messages)
"""


def prepare(job: object) -> None:
    """Give the job a model with a chat template, and an agent."""
    folder = job.folder / "model"
    shutil.copytree(job.checkpoint, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    (job.folder / "agent.py").write_text(AGENT)
    job.checkpoint = folder
    job.flags["--custom-generate-function-path"] = "openai_agent"


def rows(folder: Path, step: int) -> list[dict]:
    return pq.read_table(folder / "run" / "rollouts" / f"{step:06d}.parquet").to_pylist()


def test_an_agent_process_is_trained_on_what_the_model_said_in_two_turns(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="2", rollout_batch_size="2", n_samples_per_prompt="4")
    prepare(job)
    job.flags["--agent-command"] = f"{sys.executable} agent.py"
    done = job.run(timeout_s=500)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in (0, 1):
        samples = rows(job.folder, step)
        assert [sample["status"] for sample in samples if sample["status"] not in ("completed", "truncated")] == []
        assert {version for sample in samples for version in sample["weight_versions"]} == {step}
        two_turns = [sample for sample in samples if 0 in sample["loss_mask"]]
        assert two_turns
        for sample in two_turns:
            between = [token for token, mask in zip(sample["tokens"], sample["loss_mask"], strict=True) if not mask]
            assert between[-2:] == [4, 4]  # the agent's "5 5"; before it the end of a turn that was cut
            assert sum(sample["loss_mask"]) <= 4
    assert max(row.get("train/log_prob_abs_diff_max", 0.0) for row in job.metrics()) < 1e-4


@pytest.mark.long
def test_a_model_learns_through_an_agent_inside_the_run(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="40", n_samples_per_prompt="6")
    prepare(job)
    job.flags["--agent-path"] = "agent.py:act"
    done = job.run(timeout_s=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rewards = [row["rollout/reward_mean"] for row in job.metrics() if "rollout/reward_mean" in row]
    assert sum(rewards[:3]) / 3 < 0.25
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + 0.2


def test_an_agent_that_is_not_there_is_an_error_before_anything_starts(make_job: Callable[..., object]) -> None:
    job = make_job(num_rollout="2")
    prepare(job)
    for flags, said in (
        ([], "--agent-path or --agent-command"),
        (["--agent-path", "agent.py:nobody"], "nobody"),
        (["--agent-command", "no-such-program-here"], "there is no program"),
    ):
        done = job.run(*flags, "--dry-run")
        assert done.returncode == 2
        assert said in done.stderr + done.stdout


@pytest.mark.long
def test_the_example_trains_a_real_model_in_two_turns(tmp_path: Path, small_model: Path) -> None:
    root = Path(__file__).parents[2]
    flags = {
        "--config": "examples/openai_agent/train.toml",
        "--hf-checkpoint": str(small_model),
        "--num-rollout": "1",
        "--rollout-batch-size": "2",
        "--n-samples-per-prompt": "2",
        "--run-dir": str(tmp_path / "run"),
    }
    words = [part for pair in flags.items() for part in pair]
    done = subprocess.run(
        [sys.executable, "-m", "slimrl", "train", *words], cwd=root, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    samples = rows(tmp_path, 0)
    assert len(samples) == 4
    for sample in samples:
        assert 0 < sum(sample["loss_mask"]) <= 24
        assert "Check it. Answer with the number alone." in sample["response"]
    (metrics,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics["train/log_prob_abs_diff_max"] < 1e-2
