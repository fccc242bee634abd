r"""Answers as plain expressions: LaTeX, units and number words taken off, so that a parser can read them.

The steps are those of OpenAI's grader for PRM800K (Lightman et al. 2023), in its order, with two corrections:
integers of any size stay exact, and a number's thousands separators are all removed, however many there are.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from pylatexenc.latex2text import LatexNodes2Text

MAX_LATEX_CHARS: Final = 2_000
"""Longer LaTeX is left as it is; the converter takes time and recursion for every brace."""
ENCLOSING_TEXT: Final = re.compile(r"^\\text\{(?P<text>.+?)\}$")
WORDS: Final = (
    ("\\%", "%"),
    ("\\$", "$"),
    ("$", ""),
    ("%", ""),
    (" or ", " , "),
    (" and ", " , "),
    ("million", "*10^6"),
    ("billion", "*10^9"),
    ("trillion", "*10^12"),
)
UNIT_NAMES: Final = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard"
UNITS: Final = tuple(re.compile(rf"{unit}(es)?(s)? *(\^[0-9]+)?") for unit in UNIT_NAMES.split())
DEGREE_SIGN: Final = re.compile(r"\^ *\\circ")
SPACED_COMMA: Final = re.compile(r",\\! *")
MINUS_BLANKS: Final = re.compile("- *")
MIXED_NUMBER: Final = re.compile("([0-9]) +([0-9])")
THOUSANDS_COMMA: Final = re.compile(r"(?<=\d),(?=\d{3}(?:$|\D))")
SYMBOLS: Final = (
    ("√", "sqrt"),
    ("π", "pi"),
    ("∞", "inf"),
    ("\N{UNION}", "U"),
    ("·", "*"),
    ("\N{MULTIPLICATION SIGN}", "*"),
)
BRACKETS: Final = "()[]"


def plain(answer: str) -> str:
    """An answer as a lower-case expression without blanks, braces, units and LaTeX."""
    enclosed = ENCLOSING_TEXT.search(answer)
    text = answer if enclosed is None else enclosed["text"]
    for old, new in WORDS:
        text = text.replace(old, new)
    for unit in UNITS:
        text = unit.sub("", text)
    text = DEGREE_SIGN.sub("", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = SPACED_COMMA.sub("", text)
    integer = as_integer(text)
    if integer is not None:
        text = str(integer)
    if "\\" in text:
        text = _without_latex(text)
    text = MINUS_BLANKS.sub("-", text)
    text = MIXED_NUMBER.sub(r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    integer = as_integer(without_thousands_commas(text))
    return text if integer is None else str(integer)


def without_thousands_commas(text: str) -> str:
    """`1,234,567` as `1234567`; commas that separate elements stay."""
    return THOUSANDS_COMMA.sub("", text)


def as_integer(text: str) -> int | None:
    """The integer that a number is, to within 1e-7, or None; exact for integers of any size a float reaches."""
    try:
        nearest = round(float(text))
    except (ValueError, OverflowError):  # not a number; infinite or not a number
        return None
    try:
        exact = Decimal(text.strip())
    except ArithmeticError:  # a spelling that only float knows
        return nearest
    rounded = round(exact)
    return rounded if abs(exact - rounded) <= Decimal("1e-7") else None


def elements(text: str) -> list[str]:
    """The elements of a tuple or interval, or the expression alone; [] for nothing."""
    text = without_thousands_commas(text)
    if not text:
        return []
    is_bracketed = len(text) > 2 and text[0] in BRACKETS and text[-1] in BRACKETS
    if is_bracketed and not any(bracket in text[1:-1] for bracket in BRACKETS):
        return [element.strip() for element in text[1:-1].split(",")]
    return [text]


def _without_latex(text: str) -> str:
    if len(text) > MAX_LATEX_CHARS:
        return text
    text = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac")
    text = text.replace("\\frac", " \\frac")  # `2\frac{1}{2}` is a mixed number
    try:
        converted: str = LatexNodes2Text().latex_to_text(text)
    except Exception:  # what a model writes may be any LaTeX; what cannot be converted is compared as it is
        return text
    for old, new in SYMBOLS:
        converted = converted.replace(old, new)
    return converted.strip()
