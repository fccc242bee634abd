"""Whether two answers are the same: as text of the MATH data set, or as expressions that sympy finds equal."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from slimrl_rewards import mathd

MAX_ANSWER_CHARS: Final = 10_000
"""Longer answers are compared as text alone."""
FRACTION: Final = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")

SameAnswer = Callable[[str, str], bool]
"""Called with the given answer and the true one."""


def make_same_answer() -> SameAnswer:
    """The comparison; imports sympy, so make it where scoring happens."""
    same_expression = _expression_comparer()

    def same_answer(given: str, truth: str) -> bool:
        return mathd.same_text(given, truth) or same_expression(given, truth)

    return same_answer


def _expression_comparer() -> SameAnswer:
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
