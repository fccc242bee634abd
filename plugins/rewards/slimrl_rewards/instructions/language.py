"""Instructions that take knowledge of a language to check."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from slimrl_rewards.instructions.arguments import Relation
from slimrl_rewards.instructions.check import Check, MakeCheck, without_arguments
from slimrl_rewards.instructions.english import English
from slimrl_rewards.instructions.text import plain_words, without_punctuation

TAGGER_CONTEXT: Final = 8
"""Tokens that are tagged for the first one's part of speech; it depends on two after it."""


def with_english(english: English) -> Mapping[str, MakeCheck]:
    """The instructions, ready to be given their arguments."""

    def response_language(*, language: str) -> Check:
        """All of it is in the language; a text without letters is in any."""
        if language not in english.languages:
            raise ValueError(f"language is {language!r}: it must be one of {', '.join(sorted(english.languages))}")
        return lambda text: english.language(text) in (language, None)

    def english_capital(text: str) -> bool:
        return text.isupper() and english.language(text) in ("en", None)

    def english_lowercase(text: str) -> bool:
        return text.islower() and english.language(text) in ("en", None)

    def capital_word_frequency(*, capital_frequency: int, capital_relation: Relation) -> Check:
        """So many words are written in capitals."""
        return lambda text: capital_relation(sum(map(str.isupper, english.tokens(text))), capital_frequency)

    def number_sentences(*, num_sentences: int, relation: Relation) -> Check:
        """So many sentences."""
        return lambda text: relation(len(english.sentences(text)), num_sentences)

    def keyword_at(*, keyword: str, n: int, m: int) -> Check:
        """The m-th token of the n-th sentence is the keyword."""

        def check(text: str) -> bool:
            sentences = english.sentences(text)
            return len(sentences) >= n and english.tokens(sentences[n - 1])[m - 1 : m] == [keyword.strip()]

        return check

    def second_and_second_last(*, keyword: str) -> Check:
        """The second token and the last but one are the keyword."""

        def check(text: str) -> bool:
            tokens = english.tokens(text)
            return len(tokens) > 1 and tokens[1] == tokens[-2] == keyword.strip()

        return check

    def title_case(text: str) -> bool:
        """No token begins with a small letter and goes on with letters of one case; a lone letter may be small."""
        return not any(
            token[0].islower() and (token[1:].islower() or token[1:].isupper()) for token in english.tokens(text)
        )

    def emoji_after_each_sentence(text: str) -> bool:
        """Each sentence ends with an emoji, or the next begins with one; punctuation aside."""
        sentences = [without_punctuation(sentence).strip() for sentence in english.sentences(text)]
        return all(
            sentence and any(map(english.is_emoji, (*sentence[-2:], *later[:1])))
            for sentence, later in zip(sentences, [*sentences[1:], ""], strict=True)
        )

    def odd_even_syllables(text: str) -> bool:
        """Words with an odd and an even number of syllables by turns."""
        is_odd = [english.syllables(word) % 2 for word in plain_words(text.lower())]
        return all(earlier != later for earlier, later in pairwise(is_odd))

    def starts_with_verb() -> Check:
        """The first word is a verb."""
        tag = english.tag
        if tag is None:
            raise ValueError(
                "NLTK's model `averaged_perceptron_tagger_eng` is not installed where NLTK looks for data (NLTK_DATA)"
            )

        def check(text: str) -> bool:
            tokens = english.tokens(text)[:TAGGER_CONTEXT]
            return bool(tokens) and "VB" in tag(tokens)[0][1]

        return check

    return {
        "language:response_language": response_language,
        "change_case:english_capital": without_arguments(english_capital),
        "change_case:english_lowercase": without_arguments(english_lowercase),
        "change_case:capital_word_frequency": capital_word_frequency,
        "length_constraints:number_sentences": number_sentences,
        "words:keywords_specific_position": keyword_at,
        "words:words_position": second_and_second_last,
        "format:title_case": without_arguments(title_case),
        "format:emoji": without_arguments(emoji_after_each_sentence),
        "words:odd_even_syllables": without_arguments(odd_even_syllables),
        "words:start_verb": starts_with_verb,
    }
