"""Instructions that take knowledge of a language to check."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice, pairwise
from typing import Final

from slimrl_rewards.instructions.arguments import Relation
from slimrl_rewards.instructions.check import Check, MakeCheck, without_arguments
from slimrl_rewards.instructions.english import English
from slimrl_rewards.instructions.text import plain_words, without_punctuation

STOP_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "a about above after again against ain all am an and any are aren as at be because been before being below "
        "between both but by can couldn d did didn do does doesn doing don down during each few for from further had "
        "hadn has hasn have haven having he her here hers herself him himself his how i if in into is isn it its "
        "itself just ll m ma me mightn more most mustn my myself needn no nor not now o of off on once only or other "
        "our ours ourselves out over own re s same shan she should shouldn so some such t than that the their theirs "
        "them themselves then there these they this those through to too under until up ve very was wasn we were "
        "weren what when where which while who whom why will with won wouldn y you your yours yourself yourselves",
    )
)
"""The NLTK project's stop words of English without those that have an apostrophe: no counted word has one."""
TAGGER_CONTEXT: Final = 8
"""Tokens that are tagged for the first one's part of speech; it depends on two after it."""


def with_english(english: English) -> Mapping[str, MakeCheck]:
    """The instructions, ready to be given their arguments."""

    def tokens(text: str) -> Iterator[str]:
        return chain.from_iterable(map(english.tokens, english.sentences(text)))

    def number_words(*, num_words: int, relation: Relation) -> Check:
        """So many words."""
        return lambda text: relation(len(english.words(text)), num_words)

    def word_count_range(*, min_words: int, max_words: int) -> Check:
        """So many words, at least and at most."""
        return lambda text: min_words <= len(english.words(text)) <= max_words

    def stop_words(*, percentage: float) -> Check:
        """At most that percentage of the words are stop words; there is a word."""

        def check(text: str) -> bool:
            words = english.words(text)
            num_stop_words = sum(word.lower() in STOP_WORDS for word in words)
            return bool(words) and num_stop_words / len(words) * 100 <= percentage

        return check

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
        return lambda text: capital_relation(sum(map(str.isupper, tokens(text))), capital_frequency)

    def number_sentences(*, num_sentences: int, relation: Relation) -> Check:
        """So many sentences."""
        return lambda text: relation(len(english.sentences(text)), num_sentences)

    def keyword_at(*, keyword: str, n: int, m: int) -> Check:
        """The m-th token of the n-th sentence is the keyword."""

        def check(text: str) -> bool:
            sentences = english.sentences(text)
            return len(sentences) >= n and list(islice(tokens(sentences[n - 1]), m - 1, m)) == [keyword.strip()]

        return check

    def second_and_second_last(*, keyword: str) -> Check:
        """The second token and the last but one are the keyword."""

        def check(text: str) -> bool:
            sentences = english.sentences(text)
            start = list(islice(chain.from_iterable(map(english.tokens, sentences)), 2))
            end: list[str] = []
            for sentence in reversed(sentences):
                end = english.tokens(sentence) + end
                if len(end) > 1:
                    break
            return len(end) > 1 and start[1] == end[-2] == keyword.strip()

        return check

    def title_case(text: str) -> bool:
        """No token begins with a small letter and goes on with letters of one case; a lone letter may be small."""
        return not any(token[0].islower() and (token[1:].islower() or token[1:].isupper()) for token in tokens(text))

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
            first = list(islice(tokens(text), TAGGER_CONTEXT))
            return bool(first) and "VB" in tag(first)[0][1]

        return check

    return {
        "length_constraints:number_words": number_words,
        "count:word_count_range": word_count_range,
        "ratio:stop_words": stop_words,
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
