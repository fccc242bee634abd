from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rl_reward_reasoning_gym.__main__ import main
from rl_reward_reasoning_gym.answer import find_answer
from rl_reward_reasoning_gym.prompts import rows
from rl_reward_reasoning_gym.reward import ReasoningGymOptions

from slimrl import UsageError
from slimrl.testing import conformance, make_sample, score

ROW = next(rows("chain_sum", 1, 3, {"max_terms": 3}))
ANSWER = ROW["label"]
METADATA = ROW["metadata"]
OWN_ANSWER_IS_RIGHT = ("basic_arithmetic", "gcd", "mini_sudoku", "spell_backward", "letter_counting", "word_ladder")

test_conforms = conformance(
    "reward",
    "reasoning_gym",
    golden=[
        {"response": f"<answer>{ANSWER}</answer>", "label": ANSWER, "metadata": METADATA, "expected": 1.0},
        {"response": "<answer>no idea</answer>", "label": ANSWER, "metadata": METADATA, "expected": 0.0},
        {"response": f"it is {ANSWER}", "label": ANSWER, "metadata": METADATA, "expected": 0.0},
    ],
)


def value(response: str, row: dict[str, Any] = ROW, place: str = "tags") -> float | None:
    options = (ReasoningGymOptions(reasoning_gym_answer=place),)
    return score("reasoning_gym", make_sample(response, row["label"], row["metadata"]), options=options).value


def test_the_tasks_own_scorer_judges() -> None:
    assert value(f"<answer>{int(ANSWER)}.0</answer>") == 1.0  # chain_sum compares numbers
    assert value(f"<answer>{int(ANSWER) + 1}</answer>") == 0.0
    assert value(f"<answer>1</answer> no: <answer> {ANSWER} </answer>") == 1.0


def test_a_task_that_has_many_right_answers_accepts_any() -> None:
    row = next(rows("countdown", 1, 0, {}))
    assert value(f"<answer>{row['label']}</answer>", row) == 1.0
    assert value(f"<answer>({row['label']})</answer>", row) == 1.0


def test_the_answer_may_be_the_last_line_or_the_last_number() -> None:
    assert value(f"Let me see.\n{ANSWER}\n", place="last_line") == 1.0
    assert value(f"I get {ANSWER}, I think.", place="last_number") == 1.0
    assert value(f"I get {ANSWER} or 123456", place="last_number") == 0.0


@pytest.mark.parametrize(
    ("reply", "place", "answer"),
    [
        ("", "tags", None),
        ("<answer>7", "tags", None),
        ("</answer> <answer>", "tags", None),
        ("<answer>7</answer> <answer>8", "tags", "7"),
        ("<answer> a\nb </answer>", "tags", "a\nb"),
        (" \n ", "last_line", None),
        ("a\n b \n\n", "last_line", "b"),
        ("none", "last_number", None),
        ("1,234.50.", "last_number", "1,234.50"),
        ("from 3, to -7", "last_number", "-7"),
        ("7, ", "last_number", "7"),
    ],
)
def test_where_an_answer_is_found(reply: str, place: Any, answer: str | None) -> None:
    assert find_answer(reply, place) == answer


def test_a_row_of_another_file_is_not_scored() -> None:
    outcome = score("reasoning_gym", make_sample("<answer>7</answer>", "7", {}))
    assert (outcome.status, outcome.value) == ("error", None)
    assert "python -m rl_reward_reasoning_gym" in outcome.reason


def test_a_scorer_that_raises_leaves_the_sample_unscored() -> None:
    broken = {"reasoning_gym": {"task": "chain_sum", "settings": {}, "entry": {}}}
    outcome = score("reasoning_gym", make_sample("<answer>7</answer>", "7", broken))
    assert (outcome.status, outcome.value) == ("error", None)


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        told = ["--task", "chain_sum", "--size", "8", "--seed", str(seed), "--set", "max_terms=2"]
        assert main([*told, "--output", str(tmp_path / name)]) == 0
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b
    assert a != c
    assert len(a.splitlines()) == 8


@pytest.mark.parametrize("told", [["--task", "chain_sums"], ["--task", "chain_sum", "--set", "colour=1"]])
def test_a_wrong_task_or_setting_is_one_line(
    told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*told, "--size", "1", "--output", str(tmp_path / "f")]) == 2
    assert capsys.readouterr().err.startswith("error: reasoning-gym ")
    assert not (tmp_path / "f").exists()


def test_a_task_whose_entries_json_would_change_is_refused() -> None:
    with pytest.raises(UsageError, match="do not survive JSON"):
        next(rows("rearc", 1, 0, {}))


@pytest.mark.parametrize("name", OWN_ANSWER_IS_RIGHT)
def test_a_tasks_own_answer_is_right_after_a_trip_through_a_file(name: str) -> None:
    for row in rows(name, 3, 11, {}):
        row = json.loads(json.dumps(row))
        assert value(f"<answer>{row['label']}</answer>", row) == 1.0
