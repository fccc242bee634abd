"""`slimrl rescore`: a stored run under another reward, against a slow reference, with the run left as it is."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Group, Sample, Score, Status, Verdict
from slimrl.config import Config, GrpoConfig, RolloutConfig
from slimrl.config.settings import settings
from slimrl.config.toml import to_toml
from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.run_dir import RunDir
from slimrl.observe.stored_rollout import read_rollout, stored_steps
from slimrl.rollout.rescoring import Moments

Run = Callable[..., Any]

REWARDS = """
import time
def length(sample):
    return len(sample.response)
def same(sample):
    return float(sample.response)
def contrary(sample):
    return -float(sample.response)
def parts(sample):
    return {"half": float(sample.response) / 2, "prompt": str(sample.prompt), "tokens": len(sample.tokens)}
def moody(sample):
    if sample.sample_id % 4 == 0: raise ValueError("no judge for this")
    if sample.sample_id % 4 == 1: return None
    return 1.0
async def team(samples):
    return [float(len(samples)) for _ in samples]
"""

GROUPS = [["1", "0", "0.5"], ["1", "1", "1"], ["0", "0.25", "1"]]
"""Responses, which are the old rewards too: the second group teaches nothing."""


def sample(group: int, place: int, response: str, **fields: Any) -> Sample:
    sample_id = group * 3 + place
    score = Score.scored(float(response), reason="")
    return replace(
        Sample(group, sample_id, sample_id, "1 + 1", [5, 6], response=response, status=Status.COMPLETED),
        tokens=[7, 8],
        log_probs=[-1.0, -1.0],
        loss_mask=[1, 1],
        weight_versions=[0, 0],
        **{"score": score, "label": "2", **fields},
    )


def groups(first: int = 0) -> list[Group]:
    made = []
    for i, responses in enumerate(GROUPS):
        keep = len(set(responses)) > 1
        samples = [sample(first + i, place, response) for place, response in enumerate(responses)]
        made.append(Group(first + i, samples, Verdict(keep, "" if keep else "zero_std"), "prompts"))
    return made


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of two steps with three groups each, whose reward was the response itself."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    run = RunDir(tmp_path / "run")
    run.create()
    rollout = RolloutConfig(
        custom_rm_path="gone.py:score", dynamic_sampling_filter_path="check_reward_nonzero_std", group_rm=True
    )
    config = Config(rollout=rollout, grpo=GrpoConfig(disable_grpo_std_normalization=True))
    run.config.write_text(to_toml(config, dict.fromkeys(settings(), "flag")))
    for step in range(2):
        made = groups(3 * step)
        write_rollout(
            run.rollouts, step, made, {s.sample_id: 0.5 for g in made if g.verdict and g.verdict.keep for s in g}
        )
    return run


def rescored(slimrl: Run, *words: object) -> dict[str, Any]:
    outcome = slimrl("rescore", "run", "--json", *words)
    assert (outcome.code, outcome.heavy) == (0, []), outcome.stderr
    document: dict[str, Any] = json.loads(outcome.stdout)
    return document


def fingerprint(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns) for path in files}


def test_the_same_reward_changes_nothing(slimrl: Run, run: RunDir) -> None:
    before = fingerprint(run.path)
    document = rescored(slimrl, "--reward", "rewards.py:same")
    assert fingerprint(run.path) == before
    assert [step["step"] for step in document["steps"]] == [0, 1]
    total = document["all"]
    assert (total["samples"], total["reward"]["changed"], total["reward"]["examples"]) == (18, 0, [])
    assert total["reward"]["mean_old"] == total["reward"]["mean_new"] == pytest.approx(5.75 * 2 / 18)
    assert total["groups"] == {"groups": 6, "kept_old": 4, "kept_new": 4, "newly_kept": 0, "newly_dropped": 0}
    assert total["advantages"] == {"compared": 12, "sign_changes": 0, "reversals": 0, "correlation": pytest.approx(1)}


def test_the_contrary_reward_turns_every_advantage_around(slimrl: Run, run: RunDir) -> None:
    document = rescored(slimrl, "--reward", "rewards.py:contrary", "--step", 1)
    (step,) = document["steps"]
    assert step["step"] == 1
    assert {name: value for name, value in step.items() if name != "step"} == document["all"]
    advantages = document["all"]["advantages"]
    assert advantages["correlation"] == pytest.approx(-1)
    # the middle reward of the first group is its mean: that advantage is 0 under both
    assert (advantages["compared"], advantages["reversals"], advantages["sign_changes"]) == (6, 5, 5)


def test_the_runs_filter_judges_the_new_rewards(slimrl: Run, run: RunDir) -> None:
    total = rescored(slimrl, "--reward", "rewards.py:length")["all"]
    # lengths: 1 1 3 | 1 1 1 | 1 4 1
    assert total["groups"] == {"groups": 6, "kept_old": 4, "kept_new": 4, "newly_kept": 0, "newly_dropped": 0}
    assert total["reward"]["mean_new"] == pytest.approx(14 / 9)
    means = [np.array(rewards) - np.mean(rewards) for rewards in ([1, 0, 0.5], [0, 0.25, 1])]
    lengths = [np.array(rewards) - np.mean(rewards) for rewards in ([1, 1, 3], [1, 4, 1])]
    expected = np.corrcoef(np.concatenate(means * 2), np.concatenate(lengths * 2))[0, 1]
    assert total["advantages"]["correlation"] == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_scored_is_counted_and_explained_and_never_a_zero(slimrl: Run, run: RunDir) -> None:
    total = rescored(slimrl, "--reward", "rewards.py:moody", "--output", "rows.jsonl")["all"]
    assert total["reward"]["status_new"] == {"scored": 8, "abstained": 5, "error": 5, "timeout": 0}
    assert total["reward"]["mean_new"] == 1.0
    assert (total["groups"]["kept_new"], total["groups"]["newly_dropped"]) == (0, 4)
    assert total["advantages"] == {"compared": 0, "sign_changes": 0, "reversals": 0, "correlation": None}
    assert any("no judge for this" in example["reason"] for example in total["reward"]["examples"])
    rows = [json.loads(line) for line in (run.path.parent / "rows.jsonl").read_text().splitlines()]
    assert [row["sample_id"] for row in rows] == list(range(18))
    assert (rows[0]["old"], rows[0]["new"], rows[0]["status_new"]) == (1.0, None, "error")
    assert (rows[0]["kept_old"], rows[0]["kept_new"], rows[0]["advantage_old"]) == (True, False, 0.5)


def test_a_key_picks_and_a_mix_adds(slimrl: Run, run: RunDir) -> None:
    half = rescored(slimrl, "--reward", "rewards.py:parts", "--reward-key", "half")["all"]
    assert half["reward"]["mean_new"] == pytest.approx(half["reward"]["mean_old"] / 2)
    mix = rescored(slimrl, "--reward", "rewards.py:same=2", "--reward", "rewards.py:length=0")["all"]
    assert mix["reward"]["mean_new"] == pytest.approx(2 * mix["reward"]["mean_old"])


def test_a_group_reward_gets_whole_groups(slimrl: Run, run: RunDir) -> None:
    total = rescored(slimrl, "--reward", "rewards.py:team", "--group-rm")["all"]
    assert (total["reward"]["mean_new"], total["groups"]["newly_dropped"]) == (3.0, 4)


def test_the_table_has_a_line_a_step_and_one_for_all(slimrl: Run, run: RunDir) -> None:
    outcome = slimrl("rescore", "run", "--reward", "rewards.py:contrary")
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["step", "0", "1", "all"]
    assert " ".join(lines[3].split()) == "all 18 0.639 -0.639 14 0 4 -> 4 +0 -0 10 of 12 -1.000"
    assert "sample 0: 1 -> -1" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: slimrl rescore RUN --reward REFERENCE"),
        (["nowhere", "--reward", "f1"], "nowhere is no run folder: there is no config.toml in it"),
        (["run"], "--reward is required"),
        (["run", "--reward", "f2"], "there is no reward 'f2'"),
        (["run", "--reward", "f1", "--step", "7"], "--step 7: the run has the steps 0 to 1"),
        (["run", "--reward", "f1", "--stepp", "1"], "unknown flag --stepp; did you mean --step?"),
        (["run", "--reward", "f1", "--output", "run/new.jsonl"], "lies in the run's folder"),
        (["run", "--reward", "f1", "--rm-timeout", "-1"], "--rm-timeout must be above 0"),
        (["run", "--reward", "f1", "--rm-url", "http://h/"], "--rm-url has no effect without remote_rm"),
    ],
)
def test_a_wrong_command_is_one_clear_error(slimrl: Run, run: RunDir, words: list[str], said: str) -> None:
    before = fingerprint(run.path)
    outcome = slimrl("rescore", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.stderr
    assert fingerprint(run.path) == before


def test_a_file_that_is_no_rollout_is_refused_and_no_pickle_is_opened(slimrl: Run, run: RunDir) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(run.path.parent / "sprung"),)

    (run.rollouts / "000001.parquet").write_bytes(pickle.dumps(Trap()))
    outcome = slimrl("rescore", "run", "--reward", "rewards.py:same")
    assert outcome.code == 2
    assert "000001.parquet: not a rollout of slimrl" in outcome.stderr
    assert not (run.path.parent / "sprung").exists()


def test_a_stored_rollout_is_read_as_it_was_written(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    made = groups()
    odd = replace(made[0].samples[0], prompt=chat, label=[1, None], metadata={"a": {"b": 1}}, score=None)
    failed = replace(made[0].samples[1], status=Status.FAILED, reason="the engine went away")
    made[0].samples[:2] = [odd, failed]
    made[1].samples[0] = replace(made[1].samples[0], prompt="[{not json", label=None)
    path = write_rollout(tmp_path, 12, made, {})
    assert stored_steps(tmp_path) == {12: path}
    assert read_rollout(path) == made


pairs = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=12)


@given(pairs, pairs)
def test_moments_add_up(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    def moments(of: list[tuple[int, int]]) -> Moments:
        array = np.array(of, np.float64).reshape(-1, 2)
        return Moments.of(array[:, 0], array[:, 1])

    both, added = moments(first + second), moments(first) + moments(second)
    assert (both.num, both.sign_changes, both.reversals) == (added.num, added.sign_changes, added.reversals)
    array = np.array(first + second, np.float64).reshape(-1, 2)
    if len(array) < 2 or min(array.std(axis=0)) == 0:
        assert added.correlation is None
    else:
        assert added.correlation == pytest.approx(np.corrcoef(array.T)[0, 1], abs=1e-6)
