"""Whether a given answer is the true one, once both are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slimrl_rewards.verify.nodes import (
    VALUES,
    Answer,
    Apply,
    Based,
    Combined,
    Matrix,
    Number,
    Quantity,
    Relation,
    Several,
    Symbol,
    Value,
)
from slimrl_rewards.verify.regions import NoRegion, region, same_region, variables
from slimrl_rewards.verify.units import dimension
from slimrl_rewards.verify.values import constant_ratio, difference, letters_of, same_value, scaled

MAX_ITEMS: Final = 40
"""Of a list or set: each is compared with each."""
UNORDERED: Final = ("list", "set")
INEQUALITIES: Final = {"<": (-1, False), "le": (-1, True), ">": (1, False), "ge": (1, True)}
"""The sign of `left - right`, and whether 0 is in."""


def same(truth: Answer, given: Answer) -> bool:
    """Whether the two mean the same; `truth` says what is asked for where the two are written differently."""
    if truth == given:
        return True
    match truth, given:
        case Matrix(rows), Matrix(others):
            return [len(row) for row in rows] == [len(row) for row in others] and all(
                _each(row, other) for row, other in zip(rows, others, strict=True)
            )
        case Relation(), Relation():
            return _same_relation(truth, given)
        case Relation(), _:
            named = _named(truth)
            return _same_regions(truth, given) if named is None else same(named, given)
        case _, Relation():
            named = _named(given)
            return _same_regions(truth, given) if named is None else same(truth, named)
        case (Combined(), _) | (_, Combined()):
            return _same_regions(truth, given)
        case Several(), Several():
            return _same_several(truth, given)
        case Several("ratio", (left, right)), _ if isinstance(given, VALUES):
            return _same_quotient(left, right, given)
        case _, Several("ratio", (left, right)) if isinstance(truth, VALUES):
            return _same_quotient(left, right, truth)
        case Several("set", (item,)), _:
            return same(item, given)
        case _, Several("set" | "list", items) if items:
            return all(same(truth, item) for item in items)  # the same value once more is no second answer
        case (Several(), _) | (_, Several()):
            return False
    return _same_quantity(truth, given)


def _each(truths: Sequence[Answer], givens: Sequence[Answer]) -> bool:
    return len(truths) == len(givens) and all(map(same, truths, givens))


def _same_several(truth: Several, given: Several) -> bool:
    if max(len(truth.items), len(given.items)) > MAX_ITEMS:
        return False
    if truth.kind in UNORDERED and given.kind in UNORDERED:
        return _unordered(truth.items, given.items) or _same_regions(truth, given)
    if "ratio" in (truth.kind, given.kind):
        return truth.kind == given.kind and _proportional(truth.items, given.items)
    if truth.kind == "list" and given.kind == "()":
        return _unordered(truth.items, given.items)
    if truth.kind == "()" and given.kind == "list":
        return _each(truth.items, given.items)
    if truth.kind == given.kind and _each(truth.items, given.items):
        return True
    return _same_regions(truth, given)


def _unordered(truths: Sequence[Answer], givens: Sequence[Answer]) -> bool:
    return all(any(same(truth, given) for given in givens) for truth in truths) and all(
        any(same(truth, given) for truth in truths) for given in givens
    )


def _proportional(truths: Sequence[Answer], givens: Sequence[Answer]) -> bool:
    values = [value for value in (*truths, *givens) if isinstance(value, VALUES)]
    if len(truths) != len(givens) or len(values) != 2 * len(truths):
        return False
    left, right = values[: len(truths)], values[len(truths) :]
    return all(
        same_value(Apply("mul", (left[0], other)), Apply("mul", (right[0], one)))
        for one, other in zip(left, right, strict=True)
    )


def _same_quotient(left: Answer, right: Answer, value: Value) -> bool:
    return isinstance(left, VALUES) and isinstance(right, VALUES) and same_value(Apply("div", (left, right)), value)


def _same_regions(truth: Answer, given: Answer) -> bool:
    letters = variables(truth), variables(given)
    if all(letters) and letters[0] != letters[1]:
        return False
    try:
        return same_region(region(truth), region(given))
    except NoRegion:
        return False


def _same_relation(truth: Relation, given: Relation) -> bool:
    if truth.operators == given.operators and _each(truth.operands, given.operands):
        return True
    named = _named(truth), _named(given)
    if named[0] is not None and named[1] is not None:
        names = _name(truth), _name(given)
        is_anonymous = any(name is None or isinstance(name, Apply) for name in names)  # `f(x) =` says as much as `y =`
        if names[0] == names[1] or is_anonymous:
            return same(named[0], named[1])
    if len(truth.operators) == len(given.operators) == 1:
        if truth.operators == given.operators == ("ne",):
            return _ratio(truth, given) is not None
        if truth.operators == given.operators == ("=",):
            return _ratio(truth, given) is not None
        sides = INEQUALITIES.get(truth.operators[0]), INEQUALITIES.get(given.operators[0])
        if sides[0] is not None and sides[1] is not None and sides[0][1] == sides[1][1]:
            ratio = _ratio(truth, given)
            if ratio is not None and ratio == sides[0][0] * sides[1][0]:
                return True
    return _same_regions(truth, given)


def _ratio(truth: Relation, given: Relation) -> int | None:
    sides = [side for side in (*truth.operands, *given.operands) if isinstance(side, VALUES)]
    if len(sides) != 4:
        return None
    return constant_ratio(difference(sides[0], sides[1]), difference(sides[2], sides[3]))


def _named(relation: Relation) -> Answer | None:
    """The value that a relation gives a name: of `x = 5`, `5 = x`, `f(x) = x^2`, `(x, y) = (1, 2)`, `x in A`."""
    first, last = relation.operands[0], relation.operands[-1]
    if relation.operators == ("in",) and isinstance(first, Symbol):
        return last
    if set(relation.operators) != {"="}:
        return None
    if _is_name_for(first, last):
        return last
    if _is_name_for(last, first):
        return first
    if all(isinstance(side, VALUES) and not letters_of(side) for side in relation.operands) and all(
        same(first, side) for side in relation.operands[1:]
    ):
        return last  # `2 + 3 = 5`
    return None


def _name(relation: Relation) -> Answer | None:
    first, last = relation.operands[0], relation.operands[-1]
    return first if _is_name_for(first, last) else last if _is_name_for(last, first) else None


def _is_name_for(name: Answer, value: Answer) -> bool:
    match name:
        case Symbol(letter) | Apply("mul", (Symbol(letter), Symbol())):
            return not isinstance(value, VALUES) or letter not in letters_of(value)
        case Several("()", items):
            return all(isinstance(item, Symbol) for item in items) and isinstance(value, Several)
    return False


def _same_quantity(truth: Answer, given: Answer) -> bool:
    one, unit = (truth.value, truth.unit) if isinstance(truth, Quantity) else (truth, "")
    other, other_unit = (given.value, given.unit) if isinstance(given, Quantity) else (given, "")
    if not (isinstance(one, VALUES) and isinstance(other, VALUES)):
        return False
    measure, other_measure = dimension(unit), dimension(other_unit)
    if not measure.powers or not other_measure.powers or measure == other_measure:
        return _same_number(one, other)
    if measure.powers != other_measure.powers:
        return False
    return same_value(scaled(one, measure.size), scaled(other, other_measure.size))


def _same_number(truth: Value, given: Value) -> bool:
    """Equal as they stand, or but for a sign of percent, a degree sign or a base that one of them leaves out."""
    if same_value(truth, given):
        return True
    match truth, given:
        case Based(digits), Number(value):
            return digits == str(value)
        case Apply("percent" | "degree" as sign, (inside,)), _ if not (_has_sign(given, sign) or letters_of(inside)):
            return same_value(inside, given)
        case _, Apply("percent" | "degree" as sign, (inside,)) if not (_has_sign(truth, sign) or letters_of(inside)):
            return same_value(truth, inside)
    return False


def _has_sign(value: Value, sign: str) -> bool:
    return isinstance(value, Apply) and value.name == sign
