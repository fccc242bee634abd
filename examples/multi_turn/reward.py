"""The reward of the last reply: is it to the whole question, and is the last number that it says the sum?"""

from __future__ import annotations

import re

from slimrl import Sample


def score(sample: Sample) -> float:
    """1 for the sum of two numbers of which the model had been told both, else 0."""
    messages = sample.metadata["multi_turn"]["messages"]
    if len(messages) < 2 or not messages[-2]["content"].startswith("What is"):
        return 0.0
    numbers = re.findall(r"-?\d+", messages[-1]["content"])
    return float(numbers[-1:] == [str(sample.label)])
