from __future__ import annotations

from pathlib import Path

import pytest

from slimrl import Sample, Status, registry
from slimrl.registry import Options

REWARD = Path(__file__).parents[2] / "examples/arithmetic/reward.py"


@pytest.mark.parametrize(
    ("response", "status", "value"),
    [
        ("3 + 4 is 7.", Status.COMPLETED, 1.0),
        ("7", Status.COMPLETED, 1.0),
        ("It is 7, and 7 is", Status.TRUNCATED, 0.5),
        ("7 + 1 = 8", Status.COMPLETED, 0.0),
        ("17", Status.COMPLETED, 0.0),
        ("-7", Status.COMPLETED, 0.0),
        ("seven", Status.COMPLETED, 0.0),
        ("", Status.TRUNCATED, 0.0),
    ],
)
@pytest.mark.parametrize("label", [7, "7"])
def test_the_last_number_counts_and_a_reply_should_end(
    response: str, status: Status, value: float, label: object
) -> None:
    score = registry.load([], warn=False).resolve("reward", f"{REWARD}:score").make(Options())
    assert score(Sample(0, 0, 0, "", [], label=label, response=response, status=status)) == value
