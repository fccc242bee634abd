"""Which reward a run uses: from flags and from its data, decided before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl.hub import fetch

Run = Callable[..., Any]


@pytest.fixture
def train(tmp_path: Path, slimrl: Run) -> Run:
    """train([rm_type of each row, or None], flag words...): a dry run."""

    def run(names: list[str | None], *words: object) -> Any:
        rows = [{"input": "1 + 1", "label": "2", "metadata": {"rm_type": name} if name else {}} for name in names]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "r.py").write_text("def score(sample):\n    return 1.0\ndef group(samples):\n    return []\n")
        flags = {
            "--hf-checkpoint": fetch("smollm2-135m"),
            "--prompt-data": "prompts.jsonl",
            "--label-key": "label",
            "--rollout-batch-size": 2,
            "--n-samples-per-prompt": 2,
            "--num-rollout": 1,
            "--rollout-max-response-len": 8,
        }
        return slimrl("train", "--dry-run", *(word for pair in flags.items() for word in pair), *words)

    return run


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["f1", "gpqa"], []),
        (["f1", None], ["--rm-type", "math"]),
        ([None], ["--reward", "f1=0.5", "--reward", "r.py:score"]),
        (["maht"], ["--reward", "f1"]),
        (["maht"], ["--custom-rm-path", "r.py:score"]),
        ([None], ["--custom-rm-path", "r.py:group", "--group-rm"]),
    ],
)
def test_these_rewards_make_a_run(names: list[str | None], words: list[str], train: Run) -> None:
    outcome = train(names, *words)
    assert (outcome.code, outcome.stderr, outcome.heavy) == (0, "", [])


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("http://me:pw@judge/score", True),
        ("http://judge/score?key=1234", True),
        ("http://judge/score?key=${HOME}", False),
        ("http://judge:8000/score", False),
    ],
)
def test_a_secret_that_the_run_folder_would_keep_is_warned_of(url: str, is_warned: bool, train: Run) -> None:
    outcome = train([None], "--rm-type", "remote_rm", "--rm-url", url)
    assert outcome.code == 0
    assert outcome.stderr.startswith("warning: --rm-url may hold a secret") == is_warned
    assert "1234" not in outcome.stderr + outcome.stdout
    assert "pw@" not in outcome.stderr + outcome.stdout


@pytest.mark.parametrize(
    ("names", "words", "said"),
    [
        ([None], [], "a reward is required: --rm-type NAME, --reward NAME=WEIGHT or --custom-rm-path"),
        (["f1", None], [], "prompts.jsonl:2: no reward: other rows name one (metadata.rm_type)"),
        (["f1", "maht", "maht"], [], "prompts.jsonl:2: metadata.rm_type: there is no reward 'maht'"),
        (["f1", "maht"], ["--rm-type", "math"], "did you mean 'math'"),
        ([None], ["--reward", "f1=high"], "--reward takes REWARD=WEIGHT, the weight a finite number; got 'f1=high'"),
        ([None], ["--reward", "f2"], "there is no reward 'f2'"),
        ([None], ["--reward", "f1", "--reward", "f1=2"], "--reward names 'f1' twice"),
        ([None], ["--rm-type", "f1", "--group-rm"], "--group-rm has no effect"),
        ([None], ["--rm-type", "f1", "--rm-timeout", "0"], "--rm-timeout must be more than 0; got 0"),
        ([None], ["--rm-type", "f1", "--rm-workers", "0"], "--rm-workers must be at least 1; got 0"),
        ([None], ["--rm-type", "f1", "--max-unscored-fraction", "2"], "must be from 0 to 1; got 2"),
        ([None], ["--rm-type", "f1", "--on-unscored", "ignore"], "--on-unscored takes one of drop, retry, stop"),
    ],
)
def test_a_reward_that_is_missing_or_wrong_is_one_error(
    names: list[str | None], words: list[str], said: str, train: Run
) -> None:
    outcome = train(names, *words)
    assert (outcome.code, outcome.heavy) == (2, [])
    assert said in outcome.stderr
    assert outcome.stderr.count("error: ") == 1


def test_evaluation_sets_may_have_rewards_and_keys_of_their_own(train: Run, tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text('{"question": "1 + 1", "label": "2"}\n')
    sets = {
        "defaults": {"input_key": "question"},
        "datasets": [{"name": "held", "path": "held.jsonl", "rm_type": "f1"}],
    }
    (tmp_path / "sets.yaml").write_text(json.dumps(sets))
    outcome = train(["gpqa"], "--eval-interval", 1, "--eval-config", "sets.yaml")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "held every 1 rollouts" in outcome.stdout
    sets["datasets"] = [{"name": "held", "path": "held.jsonl", "rm_type": "f2"}]
    (tmp_path / "sets.yaml").write_text(json.dumps(sets))
    outcome = train(["gpqa"], "--eval-interval", 1, "--eval-config", "sets.yaml")
    assert "error: evaluation set 'held': there is no reward 'f2'" in outcome.stderr


def test_a_file_lists_the_mix_as_strings_and_a_flag_replaces_it(slimrl: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[rollout]\nreward = ["math=1.0", "f1=0.1"]\n')
    outcome = slimrl("config", "explain", "reward", "--config", "run.toml")
    assert outcome.stdout.splitlines()[0] == 'reward = ["math=1.0", "f1=0.1"]'
    outcome = slimrl("config", "explain", "reward", "--config", "run.toml", "--reward", "gpqa", "--reward=f1=2")
    assert outcome.stdout.splitlines()[0] == 'reward = ["gpqa", "f1=2"]'
