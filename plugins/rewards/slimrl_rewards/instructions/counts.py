"""Instructions about how many: words, numbers, paragraphs, marks, and shares of the whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from slimrl_rewards.instructions.check import Check, MakeCheck, without_arguments
from slimrl_rewards.instructions.text import EDGES, plain_words, without_punctuation

CONJUNCTIONS: Final = frozenset(("and", "but", "for", "nor", "or", "so", "yet"))
PRONOUNS: Final = frozenset(
    re.findall(
        r"\w+",
        "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself "
        "she her hers herself it its itself they them their theirs themselves",
    )
)
_STARS: Final = re.compile(r"\s?\*\*\*\s?")
_DIGITS: Final = re.compile(r"\d+")


def unique_word_count(*, N: int) -> Check:
    """At least N different words, punctuation at their ends aside."""
    return lambda text: len({word.strip(EDGES) for word in text.lower().split()}) >= N


def number_paragraphs(*, num_paragraphs: int) -> Check:
    """Exactly so many paragraphs, with three stars between two of them, and none blank but the first or last."""

    def check(text: str) -> bool:
        paragraphs = [paragraph.strip() for paragraph in _STARS.split(text)]
        blank_ends = (not paragraphs[0]) + (len(paragraphs) > 1 and not paragraphs[-1])
        return all(paragraphs[1:-1]) and len(paragraphs) - blank_ends == num_paragraphs

    return check


def nth_paragraph_first_word(*, num_paragraphs: int, nth_paragraph: int, first_word: str) -> Check:
    """So many paragraphs, with a blank line between two of them, and the n-th begins with the word."""
    if nth_paragraph > num_paragraphs:
        raise ValueError(f"there is no paragraph {nth_paragraph} of {num_paragraphs}")

    def check(text: str) -> bool:
        paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
        num_filled = sum(map(bool, paragraphs))
        if num_filled != num_paragraphs or not paragraphs[nth_paragraph - 1]:
            return False
        found = paragraphs[nth_paragraph - 1].split(maxsplit=1)[0].lstrip("'").lstrip('"')
        return re.split(r"[.,?!'\"]", found, maxsplit=1)[0].lower() == first_word.lower()

    return check


def numbers(*, N: int) -> Check:
    """Exactly N numbers; 1,000.5 is one."""
    return lambda text: len(_DIGITS.findall(without_punctuation(text))) == N


def conjunctions(*, small_n: int) -> Check:
    """At least so many coordinating conjunctions; two ways to write one, as in `and` and `And`, are two."""
    return lambda text: len({word for word in text.split() if word.strip(EDGES).lower() in CONJUNCTIONS}) >= small_n


def pronouns(*, N: int) -> Check:
    """At least N personal or possessive pronouns."""
    return lambda text: sum(word in PRONOUNS for word in plain_words(text.replace("/", " ").lower())) >= N


def every_punctuation_mark(text: str) -> bool:
    """An interrobang, and beside it a full stop, comma, exclamation mark, question mark, semicolon and colon."""
    if not any(mark in text for mark in ("!?", "?!", "‽")):
        return False
    rest = text.replace("?!", "", 1)
    if rest == text:
        rest = text.replace("!?", "", 1)
    return all(mark in rest for mark in ".,!?;:")


def repeats(*, small_n: int) -> Check:
    """No word occurs more often than that."""
    return lambda text: all(count <= small_n for count in Counter(plain_words(text.lower())).values())


def overlap(*, reference_text: str, percentage: float) -> Check:
    """That percentage, give or take two, of the response's runs of three characters are the reference's too."""
    reference = _threes(reference_text)

    def check(text: str) -> bool:
        threes = _threes(text)
        if not threes:
            return False
        return percentage - 2 <= len(threes & reference) / len(threes) * 100 <= percentage + 2

    return check


def _threes(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(len(text) - 2)}


INSTRUCTIONS: Final[Mapping[str, MakeCheck]] = {
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "count:unique_word_count": unique_word_count,
    "count:numbers": numbers,
    "count:conjunctions": conjunctions,
    "count:pronouns": pronouns,
    "count:punctuation": without_arguments(every_punctuation_mark),
    "words:repeats": repeats,
    "ratio:overlap": overlap,
}
