r"""Reward `math`: 1 if the last \boxed answer of the reply equals the label, else 0; slime's verdicts.

Right if the two are the same text in the MATH data set's normal form, or the same expression. Where slime is wrong
or hangs this differs on purpose; docs/rewards.md lists where.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimrl import Factory, PluginOptions, Reward, Sample, hookimpl, last_boxed, reward_traits
from slimrl_rewards.same_answer import make_same_answer


def make(options: PluginOptions) -> Reward:
    """The reward; imports sympy, so make it where scoring happens. It has no options."""
    same_answer = make_same_answer()

    @reward_traits(pure=True)
    def score(sample: Sample) -> int:
        answer, truth = last_boxed(sample.response), truth_of(sample.label)
        return int(answer is not None and truth is not None and same_answer(answer, truth))

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `math`."""
    return {"math": make}


def truth_of(label: Any) -> str | None:  # Any: a label is any JSON value
    """The label as an answer, out of its box if it has one; None when there is nothing to compare with."""
    if not label and (isinstance(label, bool) or not isinstance(label, int | float)):
        return None  # nothing, an empty string, False; the number 0 is an answer
    truth = str(label)
    return last_boxed(truth) if "\\boxed" in truth else truth
