"""Each check of rewards: a reward that passes all of them, and one that does not pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimrl.errors import DataError, PluginError
from slimrl.testing import Golden, suite
from slimrl.testing.golden import as_golden
from slimrl.types import Score

REWARDS = r"""
import os, random, re, time
from slimrl import RewardError, Score, reward_traits

@reward_traits(pure=True, inline=True)
def right(sample):
    return float(str(sample.label) in sample.response)

def hangs(sample):
    if not sample.response.strip(): time.sleep(1000)
    return 1.0

def quadratic(sample):
    return float(bool(re.search(r"\s+$", sample.response[:200_000] + "x")))

def needs_label(sample):
    return float(len(sample.label))

def refuses(sample):
    if sample.label is None: raise RewardError("no label to compare with")
    return 1.0

def crashes(sample):
    if not sample.response: os._exit(3)
    return 1.0

def nan(sample): return float("nan")
def text(sample): return "good"
def parts(sample): return {"right": 1.0, "brief": 0.5}
def odd(sample): return {"score": 1.0, "how": lambda: 0}

@reward_traits(pure=True)
def dice(sample): return random.random()

def honest_dice(sample): return random.random()

@reward_traits(pure=True)
def hashed(sample): return float(hash("seven") % 1000)

def changes(sample):
    sample.metadata["seen"] = True
    return 1.0

@reward_traits(inline=True)
def slow_inline(sample):
    time.sleep(0.01)
    return 1.0

def late(sample):
    time.sleep(0.6)
    return 1.0

async def later(sample):
    import asyncio
    await asyncio.sleep(0.001)
    return 1.0

state = {}
async def mixes_up(sample):
    import asyncio
    state["response"] = sample.response
    await asyncio.sleep(0.01)
    return float(len(state["response"]))

async def blocks(sample):
    time.sleep(0.15)
    return 1.0

@reward_traits(group=True)
def ranks(samples):
    return [float(len(s.response)) for s in samples]

@reward_traits(group=True)
def one_for_all(samples):
    return [1.0]
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


GOLDEN = [("3 + 4 is 7", "7", 1.0), ("8", "7", 0.0), Golden("no", "7", 0.0)]


@pytest.mark.parametrize("name", ["right", "later"])
def test_a_sound_reward_passes_every_check(rewards: Path, name: str) -> None:
    checks = suite("reward", f"{rewards}:{name}", golden=GOLDEN if name == "right" else ())
    assert [str(finding) for finding in checks if finding.outcome != "ok"] == []


@pytest.mark.parametrize(
    ("name", "check", "outcome", "said"),
    [
        ("hangs", "empty_response", "failure", "3 of 3 over the deadline"),
        ("quadratic", "huge_response", "failure", "1 of 9 over the deadline"),
        ("needs_label", "no_label", "warning", "1 of 1 have no score: the reward raised TypeError"),
        ("refuses", "no_label", "ok", "1 refused: no label to compare with"),
        ("crashes", "empty_response", "failure", "the worker process"),
        ("nan", "returns", "failure", "not finite"),
        ("text", "returns", "failure", "str 'good'"),
        ("parts", "returns", "warning", "brief, right"),
        ("odd", "result", "warning", "only numbers and text"),
        ("dice", "same_twice", "failure", "pure=True"),
        ("dice", "same_elsewhere", "failure", "pure=True"),
        ("honest_dice", "same_twice", "warning", "cannot be repeated"),
        ("hashed", "same_twice", "ok", ""),
        ("hashed", "same_elsewhere", "failure", "another hash seed"),
        ("changes", "sample", "failure", "sample.metadata"),
        ("slow_inline", "inline", "failure", "inline=True is for less than 1.0 ms"),
        ("right", "golden", "failure", "example 1: scored 0.0, expected 1.0"),
        ("late", "time", "warning", "the deadline is 1 s"),
        ("mixes_up", "together", "warning", "8 samples at once"),
        ("blocks", "together", "warning", "only wait there"),
        ("ranks", "group", "ok", "groups of 1, 2, 5"),
        ("one_for_all", "group", "failure", "1 outcomes for a group of 2; 1 outcomes for a group of 5"),
        ("nowhere", "resolves", "failure", "has no 'nowhere'"),
    ],
)
def test_a_check_finds_what_it_is_for(rewards: Path, name: str, check: str, outcome: str, said: str) -> None:
    golden = [("7", "7", 1.0), ("8", "7", 1.0)] if check == "golden" else []
    finding = suite("reward", f"{rewards}:{name}", golden=golden, timeout_s=1.0).find(check)
    assert (finding.outcome, finding.check) == (outcome, check), finding
    assert said in finding.detail


def test_nothing_is_looked_at_behind_a_factory_that_fails(install: Any) -> None:
    source = (
        "from slimrl import hookimpl\ndef make(options):\n    raise OSError('no model file')\n"
        "@hookimpl\ndef slimrl_offer_rewards():\n    return {'nofile': make}\n"
    )
    install("rl-reward-nofile", {"nofile_reward": source})
    findings = list(suite("reward", "nofile"))
    assert [finding.check for finding in findings] == ["resolves", "options", "factory"]
    assert "OSError: no model file" in findings[-1].detail
    blocked = suite("reward", "nofile").blocked_by("golden")
    assert blocked is not None
    assert blocked.check == "factory"


def test_a_function_of_a_test_file_can_be_checked_and_a_local_one_cannot() -> None:
    def local(sample: Any) -> float:
        return 1.0

    assert suite("reward", reward_here).find("returns").outcome == "ok"
    with pytest.raises(PluginError, match="at a module's top"):
        suite("reward", local)


def reward_here(sample: Any) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("expected", "score", "miss"),
    [
        (1, Score.scored(1.0), None),
        (1, Score.scored(0.5), "scored 0.5, expected 1"),
        (None, Score("abstained"), None),
        (None, Score.scored(0.0), "expected to abstain"),
        ("error", Score("error", reason="x"), None),
        ("timeout", Score("error", reason="x"), "expected timeout"),
        ({"a": 1}, Score.scored(1.0, components={"a": 1.0, "b": 2.0}), None),
        ({"b": 1}, Score.scored(1.0, components={"a": 1.0, "b": 2.0}), "expected {'b': 1}"),
        (1, Score("timeout", reason="late"), "timeout (late), expected 1"),
    ],
)
def test_an_example_says_what_an_outcome_should_have_been(expected: Any, score: Score, miss: str | None) -> None:
    found = Golden("x", expected=expected).miss(score)
    assert found is None if miss is None else miss in (found or "")


def test_an_example_without_an_expectation_must_be_scored() -> None:
    (example,) = as_golden([("x", "7")])
    assert example.miss(Score.scored(0.0)) is None
    assert example.miss(Score("error", reason="why")) == "error: why"


def test_examples_of_a_file_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text('{"response": "7", "label": 7, "expected": null}\n\n{"response": "8"}\n')
    first, second = as_golden(path)
    assert (first.where, first.expected, first.label) == ("golden.jsonl:1", None, 7)
    assert second.where == "golden.jsonl:3"
    path.write_text('{"response": "7"}\n{"reply": "7"}\n')
    with pytest.raises(DataError, match=r"golden.jsonl:2: an example needs a text 'response'; it has: reply"):
        as_golden(path)
    path.write_text('{"response": "7", "label": 7, "expcted": 1, "level": 3}\n')
    with pytest.raises(DataError, match=r"golden.jsonl:1: unknown key 'expcted'; did you mean expected"):
        as_golden(path)
    path.write_text('{"response": "7", "metadata": "easy", "level": 3}\n')
    with pytest.raises(DataError, match=r"golden.jsonl:1: 'metadata' must be an object, got 'easy'"):
        as_golden(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"golden.jsonl:1: not JSON"):
        as_golden(path)
    with pytest.raises(DataError, match="example 0: 7 is no example"):
        as_golden([7])
