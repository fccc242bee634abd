r"""The last \boxed{...} of a reply: where models that do mathematics put their answer."""

from __future__ import annotations

import re
from typing import Final

BRACE: Final = re.compile("[{}]")


def last_boxed(text: str, *, fbox: bool = False) -> str | None:
    r"""Content of the last `\boxed{...}`, braces matched; None where there is none. Time is linear in the text.

    `\boxed 42`, `\boxed {42}` and an unterminated last box give None: an earlier box does not stand in for it.
    With `fbox`, a text without any `\boxed` may have its answer in a `\fbox{...}`.
    """
    command = "\\boxed"
    start = text.rfind(command)
    if start < 0 and fbox:
        command = "\\fbox"
        start = text.rfind(command)
    opening = start + len(command)
    if start < 0 or not text.startswith("{", opening):
        return None
    depth = 0
    for brace in BRACE.finditer(text, opening):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[opening + 1 : brace.start()]
    return None
