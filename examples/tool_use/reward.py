"""The reward of the last reply: did the model call the tool, and is the last number that it says the product?"""

from __future__ import annotations

import re

from slimrl import Sample, Status


def score(sample: Sample) -> float:
    """1 for the product in a reply that calls nothing any more and stands behind one that did, else 0."""
    replies = [m["content"] for m in sample.metadata["tool_use"]["messages"] if m["role"] == "assistant"]
    numbers = re.findall(r"-?\d+", replies[-1]) if replies else []
    is_over = sample.metadata["tool_calls"] > 0 and sample.status is Status.COMPLETED
    return float(is_over and numbers[-1:] == [str(sample.label)])
