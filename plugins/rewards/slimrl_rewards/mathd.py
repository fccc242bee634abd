r"""Answers as strings: the normalisation of the MATH data set, after which equal answers are equal text.

The rules are those of Hendrycks et al. (2021), "Measuring Mathematical Problem Solving With the MATH Dataset", in
the order in which they are applied there; the order matters. Every rule is linear in the answer.
"""

from __future__ import annotations

import re
from typing import Final

ENCLOSING_TEXT: Final = re.compile(r"^\\text\{(?P<text>.+?)\}$")
REPLACEMENTS: Final = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
UNIT: Final = "\\text{ "
"""In this data set a \\text that starts with a blank is always a unit."""


class _Malformed(Exception):
    """LaTeX that the rules cannot take apart; the answer then stays as it is."""


def same_text(given: str, truth: str) -> bool:
    """Whether two answers are equal after normalisation."""
    return normalise(given) == normalise(truth)


def normalise(answer: str) -> str:
    """An answer in the data set's normal form."""
    answer = answer.strip()
    enclosed = ENCLOSING_TEXT.search(answer)
    if enclosed is not None:
        answer = enclosed["text"].strip()
    try:
        return _strip(answer)
    except _Malformed:
        return answer


def _strip(text: str) -> str:
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    text = _without_unit(text)
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:  # `k=5`, `x =5`: a name of at most two characters
        text = sides[1]
    text = _braced_sqrt(text).replace(" ", "")
    text = _braced_frac(text)
    if text == "0.5":
        text = "\\frac{1}{2}"
    return _slash_to_frac(text)


def _without_unit(text: str) -> str:
    parts = text.split(UNIT)
    if len(parts) > 2:
        raise _Malformed
    return parts[0]


def _braced_sqrt(text: str) -> str:
    head, *tails = text.split("\\sqrt")
    if "" in tails:
        raise _Malformed
    return head + "".join("\\sqrt" + (tail if tail[0] == "{" else f"{{{tail[0]}}}{tail[1:]}") for tail in tails)


def _braced_frac(text: str) -> str:
    r"""`\frac12` and `\frac1{2}` as `\frac{1}{2}`."""
    head, *tails = text.split("\\frac")
    fixed = head
    for tail in tails:
        if not tail:
            raise _Malformed
        if tail[0] == "{":
            fixed += "\\frac" + tail
        elif len(tail) < 2:
            return text
        elif tail[1] == "{":
            fixed += f"\\frac{{{tail[0]}}}{tail[1:]}"
        else:
            fixed += f"\\frac{{{tail[0]}}}{{{tail[1]}}}{tail[2:]}"
    return fixed


def _slash_to_frac(text: str) -> str:
    """`1/2` as a LaTeX fraction, if both are plain integers."""
    match = re.fullmatch(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)", text)
    return text if match is None else f"\\frac{{{match[1]}}}{{{match[2]}}}"
