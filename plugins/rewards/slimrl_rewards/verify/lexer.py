r"""Tidied answers as tokens: numbers, words, commands, text and signs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from slimrl_rewards.verify.nodes import TooLarge, Unreadable
from slimrl_rewards.verify.units import is_plain_unit

MAX_DIGITS: Final = 1_000
MAX_SCALE: Final = 300
"""Of a power of ten written as `1e300`."""
TOKEN: Final = re.compile(
    r"""(?P<blank>\s+)
    |(?P<repeating>\d*\.\d*\\(?:overline|bar|dot)\s*(?:\{\s*\d+\s*\}|\d)|0?\.\d*\(\d+\)(?!\d))
    |(?P<unending>\d*\.\d+)(?:\.\.\.|\\(?:ldots|dots|cdots)(?![A-Za-z]))
    |(?P<thousands>(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d]|,\d)(?:\.\d+)?)
    |(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?)
    |\\(?:text|textrm|mathrm|mbox|textnormal|operatorname|mathbb|begin|end)\*?\s*\{(?P<text>[^{}]*)\}
    |\\(?P<command>[A-Za-z]+|.)
    |(?P<dollar>\$)(?=\s*[\d.])
    |(?P<word>[A-Za-z]+)
    |(?P<sign>\*\*|<=|>=|!=|==|[-+*/^_=<>!(),;:|&\[\]{}'%.])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
FUNCTIONS: Final = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "ln",
        "log",
        "exp",
        "sqrt",
        "abs",
        "gcd",
        "lcm",
        "max",
        "min",
        "floor",
        "ceil",
    ]
)
CONSTANT_WORDS: Final = frozenset(["pi", "infinity", "infty", "inf", "oo"])
COMMANDS: Final = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "times": "*", "cdot": "*", "div": "/", "ast": "*", "lor": "or", "vee": "or", "land": "and", "wedge": "and",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "varnothing": "emptyset", "lbrack": "[", "rbrack": "]",
    "dbinom": "binom", "tbinom": "binom", "euro": "$€", "pounds": "$£", "yen": "$¥", "$": "$$",
    "langle": "(", "rangle": ")", "cup": "cup", "cap": "cap", "backslash": "setminus", "smallsetminus": "setminus",
    "dots": "ldots", "cdots": "ldots", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log",
    "lparen": "(", "rparen": ")", "isin": "in", "sim": "approx", "infin": "infty",
}  # fmt: skip
FILLERS: Final = frozenset(["", "year", "approximately", "exactly", "usd"])
"""Text that says nothing about the number that follows."""
PLAIN_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
NUMBER_WORDS: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

Kind = Literal["number", "letter", "text", "command", "sign", "end"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `after_blank` tells `4 2/3` from `42/3`."""

    kind: Kind
    text: str
    after_blank: bool = False
    value: Fraction = Fraction(0)


END: Final = Token("end", "")


def tokens(text: str, *, thousands: bool, units: frozenset[str]) -> list[Token]:
    """All tokens; Unreadable for a character that is none. `units` are words that are units here though letters."""
    found: list[Token] = []
    depth = 0
    position = 0
    blank = False
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise Unreadable
        kind, raw = match.lastgroup, match[match.lastgroup or 0]
        if kind == "thousands" and (depth > 0 or not thousands):
            raw = raw.partition(",")[0]
            position += len(raw)
            found.append(Token("number", raw, blank, Fraction(raw)))
            blank = False
            continue
        position = match.end()
        if kind == "blank":
            blank = True
            continue
        if kind == "sign" and raw in "([{)]}":
            depth += 1 if raw in "([{" else -1
        if raw == "U" and found and found[-1].text in (")", "]"):
            raw, kind = "cup", "command"
        found.extend(_made(kind or "", raw, match[0], blank, units))
        blank = False
    return found


def _made(kind: str, raw: str, whole: str, blank: bool, units: frozenset[str]) -> Iterator[Token]:
    if kind in ("number", "thousands"):
        yield Token("number", raw, blank, number(raw.replace(",", "")))
    elif kind == "repeating":
        yield Token("number", raw, blank, repeating(raw))
    elif kind == "unending":
        yield Token("number", raw, blank, unending(raw))
    elif kind == "text":
        yield from _text(raw, whole, blank)
    elif kind == "command":
        name = COMMANDS.get(raw, raw)
        if raw in ("\\", "{", "}"):
            yield Token("command", raw, blank)
        elif len(name) == 1 and not name.isalpha():
            yield Token("sign", name, blank)
        elif name[0] == "$":
            yield Token("command", name, blank)
        else:
            yield Token("command", name, blank)
    elif kind == "dollar":
        yield Token("command", "$$", blank)
    elif kind == "word":
        yield from _word(raw, blank, units)
    else:
        yield Token("sign", {"**": "^", "==": "="}.get(raw, raw), blank)


def _text(raw: str, whole: str, blank: bool) -> Iterator[Token]:
    word = raw.strip()
    if whole.startswith(("\\begin", "\\end")):
        yield Token("command", whole[1:].partition("{")[0].rstrip("* ") + ":" + word, blank)
    elif whole.startswith("\\mathbb"):
        yield Token("command", "mathbb:" + word, blank)
    elif word.lower() in ("or", "and"):
        yield Token("command", word.lower(), blank)
    elif word.lower() == "to":
        yield Token("sign", ":", blank)
    elif word in FUNCTIONS or word in CONSTANT_WORDS:
        yield Token("command", "infty" if word in CONSTANT_WORDS and word != "pi" else word, blank)
    elif word in ("e", "i") and whole.startswith("\\mathrm"):
        yield Token("letter", word, blank)
    elif PLAIN_NUMBER.fullmatch(word):
        yield Token("number", word, blank, number(word))
    elif word.lower() not in FILLERS:
        yield Token("text", word, blank)


def _word(raw: str, blank: bool, units: frozenset[str]) -> Iterator[Token]:
    lower = raw.lower()
    if raw in FUNCTIONS or lower in ("or", "and", "pi"):
        yield Token("command", lower, blank)
    elif lower == "to":
        yield Token("sign", ":", blank)
    elif lower in CONSTANT_WORDS:
        yield Token("command", "infty", blank)
    elif raw in units or is_plain_unit(raw) or lower in NUMBER_WORDS:
        yield Token("text", raw, blank)
    elif len(raw) > 3:
        raise Unreadable  # a word of a language, not a product of letters
    else:
        for position, letter in enumerate(raw):
            yield Token("letter", letter, blank and position == 0)


def number(text: str) -> Fraction:
    """A decimal, exactly."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or len(exponent) > 5 or (exponent and abs(int(exponent)) > MAX_SCALE):
        raise TooLarge
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def repeating(text: str) -> Fraction:
    r"""`0.1\overline{6}` or `0.1(6)`, exactly."""
    if len(text) > 100:
        raise TooLarge
    whole, _, rest = text.partition(".")
    fixed = re.match(r"\d*", rest)
    start = fixed[0] if fixed else ""
    period = re.sub(r"\D", "", rest[len(start) :])
    shift = Fraction(1, 10 ** len(start))
    return Fraction(int(whole or 0)) + int(start or 0) * shift + Fraction(int(period), 10 ** len(period) - 1) * shift


def unending(text: str) -> Fraction:
    """`0.1666...`, exactly, where the last digits repeat three times; Unreadable where they do not."""
    whole, _, digits = text.partition(".")
    for length in range(1, min(len(digits), 60) // 3 + 1):
        period = digits[-length:]
        if digits.endswith(period * 3):
            return repeating(f"{whole}.{digits[: -3 * length]}\\overline{{{period}}}")
    raise Unreadable
