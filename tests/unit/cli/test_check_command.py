"""`slimrl check`: a table or JSON, and an exit code that a script can trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

SOURCE = """
import time
def right(sample):
    return float(str(sample.label) in sample.response)
def hangs(sample):
    if not sample.response: time.sleep(100)
    return 1.0
def judge(prompts, completions, **columns):
    return [float(len(c)) for c in completions]
def keep(group):
    return sum(s.value for s in group) > 1
def take(buffer, count):
    taken = buffer[:count]
    del buffer[:count]
    return taken
async def sleeps(sample, sampling, engine):
    import time
    time.sleep(1000)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_sound_reward_passes_and_the_table_says_what_it_is(slimrl: Run, plugins: Path) -> None:
    outcome = slimrl("check", "mine.py:right")
    assert (outcome.code, outcome.heavy) == (0, []), outcome.stdout
    assert f"ours, sync, from {plugins}" in outcome.stdout
    assert outcome.stdout.splitlines()[-1].endswith("0 warnings, 0 failures")


def test_a_reward_that_hangs_fails_and_is_killed(slimrl: Run, plugins: Path) -> None:
    outcome = slimrl("check", "mine.py:hangs", "--rm-timeout", "0.5")
    assert outcome.code == 1
    (line,) = (line for line in outcome.stdout.splitlines() if "FAIL" in line)
    assert "empty_response" in line
    assert "no result within 0.5 s" in line


def test_a_judge_that_is_not_there_is_one_failure_in_bounded_time(slimrl: Run) -> None:
    outcome = slimrl("check", "remote_rm", "--rm-url", "http://127.0.0.1:9/score", "--rm-timeout", "2")
    assert outcome.code == 1
    (line,) = (line for line in outcome.stdout.splitlines() if "FAIL" in line)
    assert "answers" in line
    assert "none of 3 samples had an outcome within 2 s (http://127.0.0.1:9/score" in line
    assert "ConnectionRefused" in line or "Cannot connect" in line
    assert "checks not run" in outcome.stdout


def test_the_json_has_every_finding(slimrl: Run, plugins: Path) -> None:
    outcome = slimrl("check", "mine.py:judge", "--json")
    document = json.loads(outcome.stdout)
    assert (document["kind"], document["shape"], document["outcome"]) == ("reward", "trl", "ok")
    assert {"resolves", "golden", "same_twice"} <= {finding["check"] for finding in document["findings"]}
    assert all(finding["outcome"] == "ok" for finding in document["findings"])


def test_examples_decide(slimrl: Run, plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "golden.jsonl").write_text(
        '{"response": "it is 7", "label": "7", "expected": 1}\n{"response": "it is 8", "label": "7", "expected": 1}\n'
    )
    outcome = slimrl("check", "mine.py:right", "--input", "golden.jsonl")
    assert outcome.code == 1
    assert "1 of 2: golden.jsonl:2: scored 0.0, expected 1" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["mine.py:take", "--kind", "buffer_filter"], 0, "ok    removes"),
        (["pop_first"], 0, "buffer filter pop_first"),
        (["check_reward_nonzero_std", "--kind", "filter"], 0, "dynamic filter check_reward_nonzero_std"),
        (["mine.py:keep", "--kind", "dynamic-filter"], 1, "returned bool"),
        (["mine.py:sleeps", "--kind", "generator", "--rm-timeout", "2"], 1, "it did not finish within 2 s"),
        (["grpo"], 0, "advantage estimator grpo"),
    ],
)
def test_every_kind_has_its_checks(slimrl: Run, plugins: Path, words: list[str], code: int, said: str) -> None:
    outcome = slimrl("check", *words)
    assert outcome.code == code, outcome.stdout + outcome.stderr
    assert said in outcome.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: slimrl check REFERENCE"),
        (["nath"], "there is no reward 'nath'"),
        (["mine.py:rihgt"], "did you mean 'right'?"),
        (["mine.py:right", "--knd", "reward"], "unknown flag --knd; did you mean --kind?"),
        (["mine.py:right", "--kind", "tracker"], "--kind tracker: there are checks for reward, "),
        (["mine.py:right", "--input", "nowhere.jsonl"], "examples nowhere.jsonl: No such file"),
        (["mine.py:right", "--rm-timeout", "0"], "--rm-timeout must be above 0"),
        (["grpo", "--reward-key", "x"], "--reward-key is for rewards; 'grpo' is checked as advantage estimator"),
        (["single_turn", "--hf-checkpoint", "nowhere"], "--hf-checkpoint nowhere does not exist"),
        (["-p", "no:slimrl/math", "math"], "math"),
    ],
)
def test_what_cannot_be_checked_is_one_clear_error(slimrl: Run, plugins: Path, words: list[str], said: str) -> None:
    outcome = slimrl("check", *words)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.heavy == []
