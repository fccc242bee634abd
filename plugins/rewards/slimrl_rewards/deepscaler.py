r"""Reward `deepscaler`: 1 if the last \boxed answer after the thinking equals the label, else 0; slime's verdicts.

The comparison is that of `math`. A reply that never ends its thinking is wrong, whatever it has in a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, last_boxed, reward_traits
from slimrl_rewards.same_answer import make_same_answer


def make(options: PluginOptions) -> Reward:
    """The reward; imports sympy, so make it where scoring happens. It has no options."""
    same_answer = make_same_answer()

    @reward_traits(pure=True)
    def score(sample: Sample) -> int:
        answer = last_boxed(after_thinking(sample.response))
        if answer is None or sample.label == "":
            return 0
        truth = truth_of(sample.label)
        return int(truth is not None and same_answer(answer, truth))

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `deepscaler`."""
    return {"deepscaler": make}


def after_thinking(response: str) -> str:
    """What follows the last `</think>`, else what lies between the first and the second `###Response`, else nothing."""
    if "</think>" in response:
        return response.rpartition("</think>")[2]
    return response.partition("###Response")[2].partition("###Response")[0]


def truth_of(label: Any) -> str | None:  # Any: a label is any JSON value
    """The label as an answer; None when it has a box with nothing to read in it, RewardError for what is no answer."""
    if not isinstance(label, str | int | float):
        raise RewardError(f"deepscaler: the label must be text or a number, not {label!r:.100}")
    truth = str(label)
    return last_boxed(truth) if "\\boxed" in truth else truth
