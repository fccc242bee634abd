r"""Reward `math`: 1 if the last \boxed answer of the reply equals the label, else 0; slime's verdicts.

Right if the two are the same text in the MATH data set's normal form, or the same expression. Where slime is wrong
or hangs this differs on purpose; docs/rewards.md lists where.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from slimrl import Factory, PluginOptions, Reward, Sample, hookimpl, last_boxed
from slimrl_rewards import mathd

MAX_ANSWER_CHARS: Final = 10_000
"""Longer answers are compared as text alone."""
FRACTION: Final = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")

SameExpression = Callable[[str, str], bool]


def make(options: PluginOptions) -> Reward:
    """The reward; imports sympy, so make it where scoring happens. It has no options."""
    same_expression = _expression_comparer()

    def score(sample: Sample) -> int:
        answer, truth = last_boxed(sample.response), truth_of(sample.label)
        if answer is None or truth is None:
            return 0
        return int(mathd.same_text(answer, truth) or same_expression(answer, truth))

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


def _expression_comparer() -> SameExpression:
    # Imported here and not above: sympy takes half a second and 40 MB, for whoever only lists the plugins too.
    from slimrl_rewards import answer_text
    from slimrl_rewards.equivalence import are_equal
    from slimrl_rewards.expression import reserved_names

    # The converter warns of every malformed command, and models write many.
    logging.getLogger("pylatexenc").setLevel(logging.CRITICAL)
    reserved = reserved_names()
    plain_truth = lru_cache(maxsize=1024)(answer_text.plain)  # a group's samples share their label

    def same_element(given: str, truth: str) -> bool:
        if FRACTION.search(truth) and FRACTION.search(given):
            return given == truth  # a fraction that is not reduced is wrong
        if is_integer(truth) != is_integer(given):
            return False  # an integer is answered by an integer, not by an expression that equals it
        return are_equal(truth, given, reserved)

    def is_integer(text: str) -> bool:
        return answer_text.as_integer(answer_text.without_thousands_commas(text)) is not None

    def same_expression(given: str, truth: str) -> bool:
        if max(len(given), len(truth)) > MAX_ANSWER_CHARS:
            return False
        truth, given = plain_truth(truth), answer_text.plain(given)
        if truth == given:
            return True
        if not given:
            return False
        truths, givens = answer_text.elements(truth), answer_text.elements(given)
        if len(truths) > 1 and (truth[0], truth[-1]) != (given[0], given[-1]):
            return False
        return len(truths) == len(givens) and all(map(same_element, givens, truths))

    return same_expression
