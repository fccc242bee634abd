"""Reward `f1`: how many words of the reply and the label agree, from 0 to 1: the F1 score of SQuAD.

Words are compared without case, punctuation and articles (Rajpurkar et al. 2016). The answers yes, no and noanswer
count only as a whole (HotpotQA, Yang et al. 2018). The whole reply is the answer: nothing is taken out of it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, reward_traits

ARTICLE: Final = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
WHOLE_ANSWERS: Final = (["yes"], ["no"], ["noanswer"])


def make(options: PluginOptions) -> Reward:
    """The reward; it has no options."""
    words_of_truth = lru_cache(maxsize=1024)(words)  # a group's samples share their label

    @reward_traits(pure=True, inline=True)
    def score(sample: Sample) -> float:
        response: str | None = sample.response
        if response is None:
            return 0.0
        if not isinstance(sample.label, str):
            raise RewardError(f"f1: the label must be text, not {sample.label!r:.100}")
        return overlap(words(response), words_of_truth(sample.label))

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `f1`."""
    return {"f1": make}


def words(text: str) -> list[str]:
    """The words of a text in lower case, without ASCII punctuation and English articles."""
    return ARTICLE.sub(" ", text.lower().translate(PUNCTUATION)).split()


def overlap(given: list[str], truth: list[str]) -> float:
    """The harmonic mean of precision and recall of the words, each counted as often as both have it."""
    if given != truth and (given in WHOLE_ANSWERS or truth in WHOLE_ANSWERS):
        return 0.0
    num_common = (Counter(given) & Counter(truth)).total()
    if num_common == 0:
        return 0.0
    precision, recall = num_common / len(given), num_common / len(truth)
    return 2 * precision * recall / (precision + recall)
