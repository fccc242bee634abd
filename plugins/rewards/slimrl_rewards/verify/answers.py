"""An answer read from text, and the decision whether two texts are the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from slimrl_rewards.verify import notation
from slimrl_rewards.verify.equality import same
from slimrl_rewards.verify.fallback import SameByLibrary, is_tame
from slimrl_rewards.verify.lexer import tokens
from slimrl_rewards.verify.nodes import NOTHING, Answer, Number, Several, TooLarge, Unreadable
from slimrl_rewards.verify.parser import parse

MAX_CHARS: Final = 1_500
"""Longer answers are compared as text alone."""
NUMBER: Final = re.compile(r"[-+]? ?\d{1,400}(?:\.\d{1,400})?", re.ASCII)
CLOCK: Final = re.compile(r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?\s*([ap]\.?\s?m\.?)?", re.IGNORECASE)
TEXT: Final = re.compile(r"\\(?:text|textrm|mathrm|mbox|textnormal|operatorname)\s*\{([^{}]*)\}")
WORDS: Final = re.compile(r"[^\W\d_][^\W\d_ '\-.,;:()?/]*[^\W\d_ '\-.,;:()?/]*(?:[ '\-.,;:()?/]+[^\W\d_]+)*[.)?]*")
CHOICE: Final = re.compile(r"\(?([A-J])\)?")
LABELLED: Final = re.compile(r"(?:\(([A-Ja-j])\)|([A-Ja-j])[).:])(?:\s.*)?|([A-Ja-j])", re.DOTALL)
LIST_OF_THREES: Final = re.compile(r"\d,\d{3}")
PLAIN_UNITS: Final = frozenset(["m", "g", "s", "h", "l", "L", "in", "min", "ft"])
EMPTY: Final = frozenset(
    ["no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set", "the empty set"]
)
NUMBER_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS: Final = {word: Number(Fraction(value)) for value, word in enumerate(NUMBER_WORDS)}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text was found to be."""

    text: str
    """In one spelling."""
    words: str = ""
    """In small letters, if it is words and not mathematics."""
    answer: Answer | None = None
    is_too_large: bool = False


def read(text: str) -> Reading:
    """An answer, read once and for all; nothing of it is computed."""
    if len(text) > MAX_CHARS:
        return Reading(notation.key(text.strip()), is_too_large=True)
    tidied = notation.tidy(text)
    words = _words(tidied)
    if words in NUMBERS:
        return Reading(tidied, "", NUMBERS[words])
    if words in EMPTY:
        return Reading(tidied, words, NOTHING)
    try:
        return Reading(tidied, words, _parsed(tidied))
    except Unreadable:
        return Reading(tidied, words)
    except TooLarge:
        return Reading(tidied, words, is_too_large=True)


def is_same(truth: Reading, given: Reading, library: SameByLibrary) -> bool | None:
    """Whether the given answer is the true one; None where nothing can read the true one."""
    if notation.key(truth.text) == notation.key(given.text) != "":
        return True
    if truth.is_too_large or given.is_too_large:
        return False
    for decide in (_by_number, _by_choice, _by_clock, _by_words):
        verdict = decide(truth, given)
        if verdict is not None:
            return verdict
    if truth.answer is None or given.answer is None:
        return _by_library(truth, given, library)
    try:
        return same(truth.answer, given.answer) or _in_another_reading(truth, given)
    except (TooLarge, RecursionError):
        return False


def is_readable(truth: Reading, library: SameByLibrary) -> bool:
    """Whether a label says anything that an answer could be compared with."""
    if not truth.text:
        return False
    if truth.answer is not None or truth.words or truth.is_too_large or not is_tame(truth.text):
        return True
    return (
        bool(re.search(r"(?<![\\A-Za-z])[A-Za-z]{2}", TEXT.sub(r" \1 ", truth.text)))
        or _by_library(truth, truth, library) is not None
    )


def _by_number(truth: Reading, given: Reading) -> bool | None:
    if NUMBER.fullmatch(truth.text) and NUMBER.fullmatch(given.text):
        return Fraction(truth.text.replace(" ", "")) == Fraction(given.text.replace(" ", ""))
    return None


def _by_choice(truth: Reading, given: Reading) -> bool | None:
    letter = CHOICE.fullmatch(_without_text(truth.text))
    if letter is None:
        return None
    chosen = LABELLED.fullmatch(_without_text(given.text))
    if chosen is None:
        return None
    return next(group for group in chosen.groups() if group).upper() == letter[1]


def _by_clock(truth: Reading, given: Reading) -> bool | None:
    expected = CLOCK.fullmatch(_without_text(truth.text))
    if expected is None:
        return None
    found = CLOCK.fullmatch(_without_text(given.text))
    if found is None:
        return None  # `3:10` may be a ratio
    halves = [(match[4] or "")[:1].lower() for match in (expected, found)]
    times = [(int(match[1]), int(match[2]), int(match[3] or 0)) for match in (expected, found)]
    return times[0] == times[1] and (not all(halves) or halves[0] == halves[1])


def _by_words(truth: Reading, given: Reading) -> bool | None:
    if truth.words and truth.words == given.words:
        return True
    if not truth.words or truth.answer is not None:
        return None  # `abc` may be a product
    return False if given.words or given.answer is not None else None


def _by_library(truth: Reading, given: Reading, library: SameByLibrary) -> bool | None:
    if not (is_tame(truth.text) and is_tame(given.text)):
        return False
    try:
        return library(truth.text, given.text)
    except Exception:  # it raises anything on text that it cannot read; such answers are not equal
        return False


def _in_another_reading(truth: Reading, given: Reading) -> bool:
    """Equal where `100,200` is a list rather than a number, or where `m` is a unit rather than a letter."""
    readings: list[tuple[Callable[[str], Answer], str]] = []
    if LIST_OF_THREES.search(truth.text) and LIST_OF_THREES.search(given.text):
        readings.append((lambda text: _parsed(text, thousands=False), "list"))
    texts = " ".join(TEXT.findall(truth.text) + TEXT.findall(given.text))
    units = frozenset(re.findall("[A-Za-z]+", texts)) & PLAIN_UNITS
    if units:
        readings.append((lambda text: _parsed(text, units=units), ""))
    for parse_as, kind in readings:
        try:
            one, other = parse_as(truth.text), parse_as(given.text)
        except Unreadable:
            continue
        if kind and not (isinstance(one, Several) and isinstance(other, Several)):
            continue
        if same(one, other):
            return True
    return False


def _parsed(text: str, *, thousands: bool = True, units: frozenset[str] = frozenset()) -> Answer:
    try:
        return parse(tokens(text, thousands=thousands, units=units))
    except RecursionError as error:
        raise TooLarge from error


def _without_text(text: str) -> str:
    return TEXT.sub(r"\1", text).replace("{:}", ":").strip(" .")


def _words(text: str) -> str:
    plain = " ".join(TEXT.sub(r" \1 ", text).replace("\\ ", " ").split())
    if sum(character.isalpha() for character in plain) < 2 or not WORDS.fullmatch(plain):
        return ""
    return " ".join(re.sub(r"[^\w]+", " ", plain).casefold().split())


reader = lru_cache(maxsize=1024)(read)
"""Reads labels: the samples of a group share theirs."""
