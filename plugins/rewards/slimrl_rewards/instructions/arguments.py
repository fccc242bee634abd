"""The arguments of instructions, as data sets write them: what each may be."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Final

Relation = Callable[[int, int], bool]
"""Compares what a response has with what it should have."""

RELATIONS: Final[Mapping[str, Relation]] = {"less than": operator.lt, "at least": operator.ge}


def checked(given: Mapping[str, object]) -> dict[str, object]:
    """The arguments with relations as functions and whole floats as integers; raises ValueError for a wrong one.

    IFEval draws a random value for one that is missing or out of range, and the verdict is random with it; here
    that is an error. Names that no instruction has are passed on.
    """
    arguments: dict[str, object] = {}
    for name, value in given.items():
        try:
            arguments[name] = KINDS[name](value) if name in KINDS else value
        except ValueError as error:
            raise ValueError(f"{name} is {value!r:.100}: {error}") from None
    return arguments


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError("it must be a number that is not negative")
    return value


def _count(value: object) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("it must be a whole number")
    return int(number)


def _position(value: object) -> int:
    count = _count(value)
    if count == 0:
        raise ValueError("positions count from 1")
    return count


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it must be text, and not empty")
    return value


def _letter(value: object) -> str:
    letter = _text(value).strip()
    if len(letter) != 1:
        raise ValueError("it must be one character")
    return letter


def _texts(value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError("it must be a list of texts")
    texts = [_text(element) for element in value]
    if not texts:
        raise ValueError("it must not be empty")
    return texts


def _relation(value: object) -> Relation:
    if not isinstance(value, str) or value not in RELATIONS:
        raise ValueError(f"it must be one of {', '.join(RELATIONS)}")
    return RELATIONS[value]


KINDS: Final[Mapping[str, Callable[[object], object]]] = (
    dict.fromkeys(("relation", "let_relation", "capital_relation"), _relation)
    | dict.fromkeys(("num_words", "num_sentences", "num_paragraphs", "num_placeholders", "num_bullets"), _count)
    | dict.fromkeys(("num_highlights", "num_sections", "min_words", "max_words", "small_n", "N", "n_start"), _count)
    | dict.fromkeys(("frequency", "let_frequency", "capital_frequency"), _count)
    | dict.fromkeys(("nth_paragraph", "n", "m", "n_end"), _position)
    | dict.fromkeys(("percentage",), _number)
    | dict.fromkeys(("letter",), _letter)
    | dict.fromkeys(("keywords", "forbidden_words"), _texts)
    | dict.fromkeys(("keyword", "keyword1", "keyword2", "keyword3", "keyword4", "keyword5", "word"), _text)
    | dict.fromkeys(("first_word", "section_spliter", "postscript_marker", "end_phrase"), _text)
    | dict.fromkeys(("prompt_to_repeat", "reference_text", "options", "sep", "language"), _text)
)
