r"""The answer of a reply: its last \boxed, or the last mathematics of a reply without one."""

from __future__ import annotations

import re
from typing import Final

from slimrl import last_boxed

TAIL_CHARS: Final = 2_000
"""Of a reply without a box, the end is read: the answer is there."""
ANCHOR: Final = re.compile(r"(?i)answer(?:\s+is)?\s*:?")
MATH: Final = re.compile(
    r"\$\$([^$]+)\$\$|(?<![\\$])\$([^$\n]+)\$|\\\(((?:[^\\\n]|\\(?!\)))+)\\\)|\\\[((?:[^\\]|\\(?!\]))+)\\\]"
    r"|(-?\\frac\{-?\d+\}\{\d+\})"
)
NUMBER: Final = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
PLAIN: Final = re.compile(rf"(?<![\w.])[-+]?\(*[$€£]?{NUMBER}\)*%?(?:\s*[-+*/^]\s*\(*-?{NUMBER}\)*%?)*")


def answer_of(response: str) -> str | None:
    """The text of the answer; None where the reply has none."""
    boxed = last_boxed(response)
    if boxed is not None or "\\boxed{" in response:
        return boxed  # a box that does not end is no answer
    tail = response[-TAIL_CHARS:]
    anchors = list(ANCHOR.finditer(tail))
    if anchors:
        found = _first(tail[anchors[-1].end() :])
        if found is not None:
            return found
    return _last(tail)


def _first(text: str) -> str | None:
    """What an announced answer is: the first mathematics after it, on the way to the end of the reply."""
    math, plain = MATH.search(text), PLAIN.search(text)
    if math is not None and (plain is None or math.start() <= plain.start() + 1):
        return _inside(math)
    return plain[0].strip() if plain is not None else None


def _last(text: str) -> str | None:
    math, plain = _last_match(MATH, text), _last_match(PLAIN, text)
    if math is not None and (plain is None or math.end() >= plain.end()):
        return _inside(math)
    return plain[0].strip() if plain is not None else None


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text):
        last = match
    return last


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)
