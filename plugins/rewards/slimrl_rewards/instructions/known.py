"""All instructions that can be checked, by their identifiers."""

from __future__ import annotations

from collections.abc import Mapping

from slimrl_rewards.instructions import counts, keywords, layout, marks, tasks, words
from slimrl_rewards.instructions.check import MakeCheck
from slimrl_rewards.instructions.english import English
from slimrl_rewards.instructions.language import with_english
from slimrl_rewards.instructions.sentences import about_sentences


def known_instructions(english: English) -> Mapping[str, MakeCheck]:
    """The 25 of IFEval and the 58 of IFBench."""
    return {
        **counts.INSTRUCTIONS,
        **keywords.INSTRUCTIONS,
        **layout.INSTRUCTIONS,
        **marks.INSTRUCTIONS,
        **tasks.INSTRUCTIONS,
        **words.INSTRUCTIONS,
        **about_sentences(english.sentences),
        **with_english(english),
    }
