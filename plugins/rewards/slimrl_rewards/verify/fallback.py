"""The library math-verify, for answers outside the language that is read here; only tame text reaches it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final

MAX_CHARS: Final = 300
MAX_DIGITS: Final = 30
MAX_NESTING: Final = 5
MAX_BRACKETS: Final = 16
MAX_BARS: Final = 4
"""Bars open and close alike: a parser that looks for the pairs takes exponential time."""
MAX_POWERS: Final = 4
MAX_EXPONENT: Final = 20
MAX_FUNCTIONS: Final = 2
MAX_ITEMS: Final = 16
COMPUTED: Final = re.compile(
    r"!|\*\*|\\(?:int|iint|oint|sum|prod|lim|det|partial|nabla|bigcup|bigcap|mod|bmod|pmod|operatorname|binom)(?![a-z])"
    r"|\^\s*\{[^{}]*\^|\^\s*[^\s{}]\s*\^|\^\s*\{[^{}]*\{[^{}]*\^|\d[eE]\d"
)
"""What takes work: sums, integrals, factorials, powers of powers."""
FUNCTION: Final = re.compile(r"sin|cos|tan|cot|sec|csc|log|ln|exp")
EXPONENT: Final = re.compile(r"\^\s*\{?\s*-?\s*(\d+)")
WORD: Final = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{4,}")
"""Outside of commands and text: a language, or code."""
DIGITS: Final = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
UNIT: Final = re.compile(r"\\(?:text|mathrm|mbox|textrm)\s*\{([^{}]*)\}")
ENVIRONMENT: Final = re.compile(r"\\(?:begin|end)\s*\{\w*\}")
BASE: Final = re.compile(r"_\s*\{?(\d+)")

SameByLibrary = Callable[[str, str], bool | None]


def is_tame(text: str) -> bool:
    """Whether the text is small enough in every way for a library without bounds of its own."""
    depth = deepest = brackets = 0
    for character in text[: MAX_CHARS + 1]:
        brackets += character in "([{"
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return (
        len(text) <= MAX_CHARS
        and deepest <= MAX_NESTING
        and brackets <= MAX_BRACKETS
        and text.count("|") + text.count("vert") <= MAX_BARS
        and text.count("^") <= MAX_POWERS
        and text.count(",") + text.count("&") + text.count(";") <= MAX_ITEMS
        and len(FUNCTION.findall(text)) <= MAX_FUNCTIONS
        and COMPUTED.search(text) is None
        and WORD.search(UNIT.sub("", ENVIRONMENT.sub("", text))) is None
        and DIGITS.search(text) is None
        and all(len(power) <= 3 and int(power) <= MAX_EXPONENT for power in EXPONENT.findall(text))
    )


def comparer() -> SameByLibrary:
    """Says whether two answers are equal to math-verify; None where it cannot read the first, the truth."""
    from math_verify import LatexExtractionConfig, parse, verify

    # It warns once that it has no time limit; the process that scores has one.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)
    latex = LatexExtractionConfig(boxed_match_priority=-1)

    def read(text: str) -> list[Any]:  # Any: sympy's objects
        parsed: list[Any] = parse(f"${text}$", [latex], fallback_mode="no_fallback", parsing_timeout=None)
        return parsed

    def same(truth: str, given: str) -> bool | None:
        expected = read(truth)
        if not expected:
            return None
        if _differ(UNIT, truth, given) or _differ(BASE, truth, given):
            return False  # it takes units and bases off
        found = read(given)
        return bool(found and verify(expected, found, float_rounding=15, timeout_seconds=None))

    return same


def _differ(pattern: re.Pattern[str], truth: str, given: str) -> bool:
    one, other = ([found.strip() for found in pattern.findall(text)] for text in (truth, given))
    return bool(one and other and one != other)
