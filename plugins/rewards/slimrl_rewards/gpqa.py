"""Reward `gpqa`: 1 if the reply chooses the right option of a multiple-choice question, else 0; slime's verdicts.

A letter is looked for first, the text of an option only where there is none. Where slime reads a letter out of a word,
or takes a reply that names every option for a right one, this differs on purpose; docs/rewards.md lists where.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, reward_traits

LETTERS_WITHOUT_CHOICES: Final = string.ascii_uppercase[:10]
# Possessive throughout: on a megabyte of blanks, giving one back and trying again would take time quadratic in it.
ANNOUNCED: Final = re.compile(
    r"(?i)(?:answer|option|choice)[\s*_]*+(?:is)?+[\s:*_(\[{$\"'`]*+(?P<letter>[A-Z])(?![^\W_])"
)
CALLED_CORRECT: Final = re.compile(r"(?i)(?<![^\W_])(?P<letter>[A-Z])\s*+is\s*+(?:the\s*+)?+correct")
CAPITAL: Final = re.compile(r"\b(?P<letter>[A-Z])\b")
PRONOUN: Final = re.compile(r"[Ii](?:['\u2019]|\s++(?!(?:is|as|and|or|because|since)\b)[a-z])")
LETTER_LIST: Final = re.compile(r"(?i)\b[A-Z]\b(?:(?:[\s,;/&]|\band\b|\bor\b){1,8}\b[A-Z]\b)++(?!\s*+\w)")
LETTER_LIST_REACH: Final = 60
"""Characters before and after a letter in which a list that it is part of is looked for."""
NOT_A_WORD: Final = re.compile(r"[\W_]+")
ARTICLE_OR_PRONOUN: Final = frozenset({" a ", " i "})


@dataclass(frozen=True)
class Question:
    """What is known of a question."""

    letters: list[str]
    """Of the options, upper case, in their order."""
    choices: list[str]
    """Texts of the options in the same order; may be empty."""
    correct_letter: str | None
    correct_texts: list[str]


def make(options: PluginOptions) -> Reward:
    """The reward; it has no options."""

    @reward_traits(pure=True, inline=True)
    def score(sample: Sample) -> float:
        response: str | None = sample.response
        if response is None:
            return 0.0
        reply = response.rpartition("</think>")[2]
        question = read_question(sample.label, sample.metadata)
        found = _find_letter(reply, set(question.letters))
        if found is None or question.correct_letter is None:
            return float(_names_correct_text(reply, question))
        letter, place = found
        return float(letter == question.correct_letter and not _names_every_letter(reply, place, question.letters))

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `gpqa`."""
    return {"gpqa": make}


def read_question(label: Any, metadata: Any) -> Question:  # Any: a data set's JSON values
    """The options and which of them is correct; RewardError for metadata that cannot be read."""
    known = metadata if isinstance(metadata, Mapping) else {}
    choices, letters = _choices(known.get("choices")), known.get("valid_letters")
    if not letters:
        letters = string.ascii_uppercase[: len(choices)] if choices else LETTERS_WITHOUT_CHOICES
    elif not isinstance(letters, list | tuple | str):
        raise RewardError(f"gpqa: metadata.valid_letters must be a list of letters, not {letters!r:.100}")
    letters = [str(letter).upper() for letter in letters]
    correct = _correct_letter(label, known.get("correct_letter"), letters, choices)
    texts = [label, known.get("correct_answer"), known.get("answer_text")]
    if correct in letters and letters.index(correct) < len(choices):
        texts.append(choices[letters.index(correct)])
    return Question(letters, choices, correct, [text for text in texts if isinstance(text, str)])


def _choices(choices: Any) -> list[str]:  # Any: see read_question
    if isinstance(choices, Mapping):
        return [str(choices[key]) for key in sorted(choices, key=str)]
    if choices and not isinstance(choices, list | tuple | str):
        raise RewardError(f"gpqa: metadata.choices must be a list or an object, not {choices!r:.100}")
    return [str(choice) for choice in choices or ()]


def _correct_letter(label: Any, named: Any, letters: list[str], choices: list[str]) -> str | None:  # Any: as above
    if isinstance(label, int | float) and label in range(len(letters)):  # no fraction and no nan is in a range
        return letters[int(label)]
    if isinstance(named, str) and named.strip():
        return named.strip().upper()
    if not isinstance(label, str):
        return None
    if label.strip().upper() in letters:
        return label.strip().upper()
    text = _in_words(label)
    options = zip(letters, choices, strict=False)  # a data set may name fewer letters than it has choices
    return next((letter for letter, choice in options if text and _in_words(choice) == text), None)


def _find_letter(reply: str, letters: set[str]) -> tuple[str, int] | None:
    """The letter that the reply chooses, upper case, and where it stands."""
    for pattern in (ANNOUNCED, CALLED_CORRECT):
        for letter, place in _letters_of(pattern, reply):
            if letter in letters:
                return letter, place
    last = None
    for letter, place in _letters_of(CAPITAL, reply):
        if letter in letters:
            last = letter, place
    return last


def _letters_of(pattern: re.Pattern[str], reply: str) -> Iterator[tuple[str, int]]:
    for match in pattern.finditer(reply):
        place = match.start("letter")
        if not PRONOUN.match(reply, place):
            yield match["letter"].upper(), place


def _names_every_letter(reply: str, place: int, letters: list[str]) -> bool:
    """Whether a letter stands in a list like `A, B, C and D`: of every option there is, or of four and more."""
    window = reply[max(place - LETTER_LIST_REACH, 0) : place + LETTER_LIST_REACH]
    return any(
        list_.start() <= min(place, LETTER_LIST_REACH) < list_.end()
        and len(named := {word.upper() for word in re.findall(r"\b\w\b", list_[0])}) > 1
        and len(named) >= min(len(letters), 4)
        for list_ in LETTER_LIST.finditer(window)
    )


def _names_correct_text(reply: str, question: Question) -> bool:
    """Whether the reply has the text of the correct option in it, as whole words, and that of no other option."""
    correct = set(map(_in_words, question.correct_texts)) - {""}
    options = correct.union(map(_in_words, question.choices)) - {""}
    letters = {_in_words(letter) for letter in question.letters}
    if letters & correct and not question.choices:  # the label is a letter: so are the other options
        options |= letters
    named = _named(_in_words(reply), options)
    return bool(named) and named <= correct


def _named(words: str, options: Iterable[str]) -> set[str]:
    """The options that occur, leaving out those that occur only within longer ones."""
    named = set()
    for option in sorted(options, key=len, reverse=True):
        if option in words and (option not in ARTICLE_OR_PRONOUN or option == words):
            named.add(option)
            words = words.replace(option, "|")
    return named


def _in_words(text: str) -> str:
    """The words of a text in lower case, each between two blanks of its own; "" for none."""
    words = NOT_A_WORD.sub(" ", text.lower()).split()
    return f" {'  '.join(words)} " if words else ""
