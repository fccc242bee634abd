r"""The last \boxed{...} of a reply, as slime's graders take it."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "\\boxed{"


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed`, braces matched; None where there is none.

    `\boxed 42`, `\boxed {42}` and an unterminated last box give None: an earlier box does not stand in for it.
    """
    start = text.rfind("\\boxed")
    if start < 0 or not text.startswith(PREFIX, start):
        return None
    depth = 0
    position = start + len(PREFIX) - 1
    while position >= 0:
        depth += 1 if text[position] == "{" else -1
        if depth == 0:
            return text[start + len(PREFIX) : position]
        position = _next_brace(text, position + 1)
    return None


def _next_brace(text: str, start: int) -> int:
    opening, closing = text.find("{", start), text.find("}", start)
    if closing < 0:
        return -1  # nothing can be closed any more
    return closing if opening < 0 else min(opening, closing)
