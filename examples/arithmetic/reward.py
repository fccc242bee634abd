"""A reward is a function: is the last number in the reply the sum, and did the reply end by itself?"""

from __future__ import annotations

import re

from slimrl import Sample, Status


def score(sample: Sample) -> float:
    """1 for the right sum, half of it for a right sum in a reply that was cut off."""
    numbers = re.findall(r"-?\d+", sample.response)
    if not numbers or numbers[-1] != str(sample.label):
        return 0.0
    return 1.0 if sample.status is Status.COMPLETED else 0.5
