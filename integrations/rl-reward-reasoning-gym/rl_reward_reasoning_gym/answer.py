"""Where in a reply its answer stands."""

from __future__ import annotations

import re
from typing import Literal

Place = Literal["tags", "last_line", "last_number"]

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
OPEN, CLOSE = "<answer>", "</answer>"


def find_answer(reply: str, place: Place) -> str | None:
    """The answer of a reply, without blanks around it; None if there is none."""
    if place == "tags":
        return _last_tagged(reply)
    if place == "last_line":
        lines = reply.split()  # blanks only: no line either
        return reply.rstrip().rsplit("\n", 1)[-1].strip() if lines else None
    numbers = NUMBER.findall(reply)
    return numbers[-1].rstrip(",") if numbers else None


def _last_tagged(reply: str) -> str | None:
    """What stands in the last closed <answer> tag; two searches from the end, so linear in any text."""
    end = reply.rfind(CLOSE)
    start = reply.rfind(OPEN, 0, end) if end >= 0 else -1
    return reply[start + len(OPEN) : end].strip() if start >= 0 else None
