"""Instructions about given words: that they occur, how often, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from slimrl_rewards.instructions.arguments import Relation
from slimrl_rewards.instructions.check import Check, MakeCheck

_WORD: Final = re.compile(r"\w+")
NAMES: Final = frozenset(
    _WORD.findall(
        "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin "
        "Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan "
        "Victoria Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph "
        "Claire Ryan Stella Jonathan"
    )
)
"""The names that IFBench's prompt lists."""


def existence(*, keywords: list[str]) -> Check:
    """Each keyword occurs; a keyword is a regular expression, as in IFEval."""
    patterns = [_pattern(keyword) for keyword in keywords]
    return lambda text: all(pattern.search(text) for pattern in patterns)


def frequency(*, keyword: str, frequency: int, relation: Relation) -> Check:
    """The keyword occurs so often, also inside of words."""
    pattern = _pattern(keyword.strip())
    return lambda text: relation(len(pattern.findall(text)), frequency)


def forbidden_words(*, forbidden_words: list[str]) -> Check:
    """None of the words occurs as a whole word."""
    patterns = [_pattern(word, r"\b{}\b") for word in forbidden_words]
    return lambda text: not any(pattern.search(text) for pattern in patterns)


def letter_frequency(*, letter: str, let_frequency: int, let_relation: Relation) -> Check:
    """The letter occurs so often, upper case or lower."""
    return lambda text: let_relation(text.lower().count(letter.lower()), let_frequency)


def keywords_multiple(*, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> Check:
    """The five keywords occur as whole words once, twice, three, five and seven times."""
    patterns = [whole_word(keyword.strip()) for keyword in (keyword1, keyword2, keyword3, keyword4, keyword5)]
    return lambda text: [len(pattern.findall(text)) for pattern in patterns] == [1, 2, 3, 5, 7]


def person_names(*, N: int) -> Check:
    """At least N of fifty first names occur as whole words."""
    return lambda text: len(NAMES & set(_WORD.findall(text))) >= N


def whole_word(word: str) -> re.Pattern[str]:
    """Finds the word, upper case or lower, where no letter or digit touches it."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _pattern(keyword: str, around: str = "{}") -> re.Pattern[str]:
    try:
        return re.compile(around.format(keyword), re.IGNORECASE)
    except re.error:  # it was meant as it stands: `C++)`
        return re.compile(around.format(re.escape(keyword)), re.IGNORECASE)


INSTRUCTIONS: Final[Mapping[str, MakeCheck]] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "count:keywords_multiple": keywords_multiple,
    "count:person_names": person_names,
}
