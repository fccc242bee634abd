"""Instructions about the letters of each word."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from slimrl_rewards.instructions.check import Check, MakeCheck, without_arguments
from slimrl_rewards.instructions.text import EDGES, plain_words

PRIMES: Final = frozenset(number for number in range(2, 100) if all(number % factor for factor in range(2, number)))
_TWO_CONSONANTS: Final = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")
_JAPANESE: Final = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def alphabet_loop(text: str) -> bool:
    """Each word begins with the letter after the one that the word before it begins with; a comes after z."""
    letters = [word[0] for word in plain_words(text.lower())]
    if not letters or letters[0] not in string.ascii_lowercase:
        return False
    first = string.ascii_lowercase.index(letters[0])
    return all(letter == string.ascii_lowercase[(first + place) % 26] for place, letter in enumerate(letters))


def three_vowels(text: str) -> bool:
    """One paragraph, and at most three of the five vowels in it."""
    return "\n" not in text.strip() and sum(vowel in text.lower() for vowel in "aeiou") <= 3


def consonant_clusters(text: str) -> bool:
    """Each word has two consonants in a row."""
    return all(_TWO_CONSONANTS.search(word) for word in text.lower().split())


def ten_palindromes(text: str) -> bool:
    """At least ten words of five letters or more read the same backwards; a word counts each time."""
    return sum(len(word) >= 5 and word == word[::-1] for word in plain_words(text.lower())) >= 10


def prime_lengths(text: str) -> bool:
    """Each word has a prime number of letters, below 100."""
    return all(len(word) in PRIMES for word in plain_words(text))


def japanese(*, N: int) -> Check:
    """Each N-th word has a Japanese letter, unless it is a number or punctuation."""
    if N < 1:
        raise ValueError("N is 0: positions count from 1")

    def check(text: str) -> bool:
        words = [word.strip(EDGES) for word in text.split()[N - 1 :: N]]
        return all(_JAPANESE.search(word) for word in words if word and not word.isdigit())

    return check


def paragraphs_end_as_they_begin(text: str) -> bool:
    """The last word of each line is its first word; lines of punctuation alone do not count."""
    lines = [line.strip().strip(EDGES).split() for line in text.lower().split("\n")]
    return all(words[0] == words[-1] for words in lines if words)


def no_two_alike(text: str) -> bool:
    """No word begins with the letter that the word before it begins with."""
    return all(earlier[0] != later[0] for earlier, later in pairwise(plain_words(text.lower())))


INSTRUCTIONS: Final[Mapping[str, MakeCheck]] = {
    "words:alphabet": without_arguments(alphabet_loop),
    "words:vowel": without_arguments(three_vowels),
    "words:consonants": without_arguments(consonant_clusters),
    "words:palindrome": without_arguments(ten_palindromes),
    "words:prime_lengths": without_arguments(prime_lengths),
    "words:paragraph_last_first": without_arguments(paragraphs_end_as_they_begin),
    "words:no_consecutive": without_arguments(no_two_alike),
    "count:words_japanese": japanese,
}
