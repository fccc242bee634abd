"""Instructions about sentences: their kinds, lengths, and how each begins and ends."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from itertools import groupby, pairwise

from slimrl_rewards.instructions.check import Check, MakeCheck, whatever_the_arguments, without_arguments
from slimrl_rewards.instructions.keywords import whole_word
from slimrl_rewards.instructions.text import EDGES, plain_words

Split = Callable[[str], list[str]]
"""Splits a text into its sentences, each stripped; a blank text has none."""


def about_sentences(split: Split) -> Mapping[str, MakeCheck]:
    """The instructions, ready to be given their arguments."""

    def ends(text: str) -> list[int]:
        """How many sentences end with a full stop, a question mark, an exclamation mark."""
        sentences = split(text)
        return [sum(sentence.endswith(mark) for sentence in sentences) for mark in ".?!"]

    def two_statements_a_question(text: str) -> bool:
        """Twice as many sentences end with a full stop as with a question mark; none of both is right too."""
        num_stops, num_questions, _ = ends(text)
        return num_stops == 2 * num_questions

    def as_many_of_each_kind(text: str) -> bool:
        return len(set(ends(text))) == 1

    def three_of_one_length(text: str) -> bool:
        """Three sentences of as many characters each."""
        lengths = [len(sentence) for sentence in split(text)]
        return len(lengths) == 3 and len(set(lengths)) == 1

    def more_alliteration_each_time(text: str) -> bool:
        return all(earlier < later for earlier, later in pairwise(map(_num_alliterating, split(text))))

    def longer_each_time(*, small_n: int) -> Check:
        """Each sentence has exactly so many words more than the sentence before it."""

        def check(text: str) -> bool:
            counts = [len(plain_words(sentence)) for sentence in split(text)]
            return all(later == earlier + small_n for earlier, later in pairwise(counts))

        return check

    def last_word_comes_first_next(text: str) -> bool:
        """Each sentence begins with the last word of the sentence before it."""
        return all(_passes_on(earlier, later) for earlier, later in pairwise(split(text)))

    def alphabet(text: str) -> bool:
        """26 sentences; their first letters are the alphabet."""
        return [sentence[:1].lower() for sentence in split(text)] == list(string.ascii_lowercase)

    def keyword_in_sentence(*, word: str, N: int) -> Check:
        """The N-th sentence has the word as a whole word; the 0-th is the last."""
        pattern = whole_word(word)

        def check(text: str) -> bool:
            sentences = split(text)
            return len(sentences) >= N and pattern.search(sentences[N - 1]) is not None

        return check

    def sentences_then_bullets(text: str) -> bool:
        """At least two sentences, then at least two lines that begin with a star, and nothing after them."""
        num_sentences = num_bullets = 0
        is_prose = True
        for line in map(str.strip, text.split("\n")):
            if line.startswith("*"):
                is_prose = False
                num_bullets += 1
                if num_sentences < 2:
                    return False
            elif is_prose:
                is_prose = bool(line)  # a blank line ends the prose
                num_sentences += len(split(line))
            else:
                return False
        return num_bullets >= 2

    return {
        "ratio:sentence_type": without_arguments(two_statements_a_question),
        "ratio:sentence_balance": without_arguments(as_many_of_each_kind),
        "ratio:sentence_words": without_arguments(three_of_one_length),
        "sentence:alliteration_increment": without_arguments(more_alliteration_each_time),
        "sentence:increment": longer_each_time,
        "sentence:keyword": keyword_in_sentence,
        "words:last_first": without_arguments(last_word_comes_first_next),
        "custom:sentence_alphabet": whatever_the_arguments(alphabet),
        "format:no_bullets_bullets": without_arguments(sentences_then_bullets),
    }


def _num_alliterating(sentence: str) -> int:
    """How many words stand beside one with the same first letter."""
    words = [word.lstrip(EDGES) for word in sentence.lower().split()]
    runs = [len(list(run)) for _, run in groupby(word[0] for word in words if word)]
    return sum(length for length in runs if length > 1)


def _passes_on(earlier: str, later: str) -> bool:
    before, after = earlier.rstrip(EDGES).split(), later.lstrip(EDGES).split()
    return bool(before and after) and before[-1].lower() == after[0].lower()
