"""The reward of the last reply: did the model ask, and is the last number that it says the sum?"""

from __future__ import annotations

import re

from slimrl import Sample


def score(sample: Sample) -> float:
    """1 for the sum of two numbers of which the model was told both, else 0."""
    replies = [m["content"] for m in sample.metadata["multi_turn"]["messages"] if m["role"] == "assistant"]
    numbers = re.findall(r"-?\d+", replies[-1]) if replies else []
    return float(bool(sample.metadata.get("told")) and numbers[-1:] == [str(sample.label)])
