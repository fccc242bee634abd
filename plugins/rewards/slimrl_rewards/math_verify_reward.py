r"""Reward `math_verify`: 1.0 if the answer is mathematically the label's, else 0.0; docs/rewards.md says what is equal.

The answer is the last \boxed of the reply, or the last mathematics of a reply without one. Text that a model wrote is
read into a tree of values within bounds and never evaluated as code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, last_boxed, reward_traits


def make(options: PluginOptions) -> Reward:
    """The reward; imports math-verify and sympy, so make it where scoring happens. It has no options."""
    # Imported here and not above: sympy takes half a second and 40 MB, for whoever only lists the plugins too.
    from slimrl_rewards.verify.answers import Reading, is_readable, is_same, read
    from slimrl_rewards.verify.extraction import answer_of
    from slimrl_rewards.verify.fallback import comparer

    library = comparer()

    @lru_cache(maxsize=1024)  # the samples of a group share their label
    def truth_of(label: str) -> Reading | None:
        truth = read(last_boxed(label) or label)
        return truth if is_readable(truth, library) else None

    @reward_traits(pure=True)
    def score(sample: Sample) -> float:
        truth = truth_of(_text(sample.label))
        if truth is None:
            raise RewardError(f"label is no answer that math_verify can read: {sample.label!r:.200}")
        answer = answer_of(sample.response)
        return float(answer is not None and bool(is_same(truth, read(answer), library)))

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `math_verify`."""
    return {"math_verify": make}


def _text(label: Any) -> str:  # Any: a label is any JSON value
    is_number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
    if not isinstance(label, str) and not is_number:
        raise RewardError(f"label must be text or a number to be compared by math_verify: {label!r:.200}")
    return str(label)
