"""Verdicts of our rewards against those of slime 0.3.1; what differs is listed with its reason."""

from __future__ import annotations

import base64
import functools
import json
import math
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from slimrl import Reward, Sample, SlimrlError
from slimrl.registry import Options, Registry, RewardReferences, load, resolve_rewards
from slimrl.registry.rewards import rm_types
from slimrl_rewards.dapo import DapoOptions

FOLDER = Path(__file__).parents[1] / "fixtures" / "rewards"
FILES = ("math", "deepscaler", "dapo", "dapo_strict", "f1", "gpqa", "dispatch")
LEAST_AGREEMENT = 0.995
OWN = ("math", "deepscaler", "dapo", "f1", "gpqa")
ERROR = "error"

EXACT_LABEL = "an integer label is compared digit by digit, not rounded to a float"
DIFFERENCES: dict[str, tuple[Any, str]] = {
    "deepscaler-0546": (1, "every thousands comma is taken off, however many there are"),
    "dapo-0902": ({"score": 1.0, "acc": True, "pred": "12345678901234567890"}, EXACT_LABEL),
    "dapo-0907": ({"score": 1.0, "acc": True, "pred": "100000000000000000000000"}, EXACT_LABEL),
    "gpqa-0128": (0.0, "the a of `answer` is not the option A"),
    "gpqa-0340": (1.0, "the I of `I am sure` is a pronoun"),
    "gpqa-0341": (1.0, "the i of `it` is no option"),
}


@functools.cache
def registry() -> Registry:
    return load(warn=False)


@functools.cache
def reward_of(rm_type: str, routed: tuple[str, ...], is_strict: bool) -> Reward:
    table = resolve_rewards(registry(), RewardReferences(mix=((rm_type, 1.0),), routed=routed))
    (component,) = table.choose({"rm_type": routed[0]} if routed else {})
    options = Options([DapoOptions(dapo_strict_box_verify=is_strict)])
    made: Reward = component.resolved.make(options.with_defaults(registry().catalogue.option_types))
    return made


def verdict(row: dict[str, Any]) -> Any:
    """What our reward of this row's rm_type returns for it, or "error"."""
    metadata = row["metadata"] or {}
    sample = Sample(0, 0, 0, "", [], label=row["label"], metadata=metadata, response=row["response"])
    is_strict = row.get("options", {}).get("strict_box_verify", False)
    try:
        return reward_of(row["rm_type"], rm_types(metadata), is_strict)(sample)
    except (SlimrlError, TypeError, AttributeError):  # the last two for a response that is no text
        return ERROR


def read(name: str) -> list[dict[str, Any]]:
    # Not splitlines: a text may have a line separator of Unicode in it.
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]


def expected(row: dict[str, Any]) -> Any:
    value = row["expected"]
    if isinstance(value, dict) and "error" in value:
        return ERROR
    # slime's f1 says the integer 0 where no word agrees; ours is a float throughout.
    return float(value) if row["rm_type"] == "f1" else value


def same(one: Any, other: Any) -> bool:
    """Equal in type and value; floats to within 1e-12."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if type(one) is float and type(other) is float:
        return math.isclose(one, other, rel_tol=0, abs_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("name", FILES)
def test_verdicts_are_those_of_slime(name: str) -> None:
    rows = [row for row in read(name) if row["id"] not in DIFFERENCES]
    given = [(row["id"], verdict(row), expected(row)) for row in rows]
    unequal = [(row_id, ours, theirs) for row_id, ours, theirs in given if not same(ours, theirs)]
    assert 1 - len(unequal) / len(rows) >= LEAST_AGREEMENT, unequal


@pytest.mark.parametrize("row_id", DIFFERENCES)
def test_a_documented_difference_is_as_documented(row_id: str) -> None:
    (row,) = [row for row in read(row_id.rpartition("-")[0]) if row["id"] == row_id]
    ours, _ = DIFFERENCES[row_id]
    assert same(verdict(row), ours)
    assert not same(ours, expected(row)), "no difference any more: take it off the list"


def unpacked(row: dict[str, Any], key: str) -> Any:
    packed = row.get(f"{key}_zlib_b64")
    return row[key] if packed is None else zlib.decompress(base64.b64decode(packed)).decode()


@pytest.mark.parametrize(
    "row", [row for row in read("adversarial") if row["rm_type"] in OWN], ids=lambda row: row["id"]
)
def test_a_hostile_sample_fails_or_is_right_at_once(row: dict[str, Any]) -> None:
    row |= {"response": unpacked(row, "response"), "label": unpacked(row, "label")}
    verdict({**row, "response": "", "label": ""})  # what is made once is made before the clock runs
    started = time.process_time()
    ours = verdict(row)
    assert time.process_time() - started < 5.0
    failure = {"dapo": {"score": -1.0, "acc": False, "pred": "[INVALID]"}, "f1": 0.0, "gpqa": 0.0}.get(
        row["rm_type"], 0
    )
    assert ours == row["correct"] or same(ours, failure) or ours == ERROR == expected(row)
