"""Sets of real numbers, however they are written: intervals, unions, inequalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slimrl_rewards.verify.nodes import VALUES, Answer, Apply, Combined, Constant, Relation, Several, Symbol, Value
from slimrl_rewards.verify.values import letters_of, real_value, same_value

MAX_PARTS: Final = 32
INFINITY: Final = Constant("oo")
MINUS_INFINITY: Final = Apply("neg", (INFINITY,))
FLIPPED: Final = {"<": ">", ">": "<", "le": "ge", "ge": "le", "ne": "ne"}


class NoRegion(Exception):
    """The answer is no set of real numbers, or not one with known ends."""


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`; each end is in it or not."""

    low: Value
    has_low: bool
    high: Value
    has_high: bool

    @property
    def at(self) -> tuple[float, float]:
        """The two ends, to order by."""
        low, high = real_value(self.low), real_value(self.high)
        if low is None or high is None:
            raise NoRegion
        return low, high


def region(answer: Answer) -> list[Interval]:
    """The parts of a set of real numbers, in order."""
    parts = _parts(answer)
    if len(parts) > MAX_PARTS:
        raise NoRegion
    return sorted((part for part in parts if not _is_empty(part)), key=lambda part: part.at)


def same_region(one: Sequence[Interval], other: Sequence[Interval]) -> bool:
    """Whether the parts are the same, one by one."""
    return len(one) == len(other) and all(map(_same_interval, one, other))


def variables(answer: Answer) -> frozenset[str]:
    """The letters that inequalities are about."""
    match answer:
        case Relation(operands):
            return frozenset().union(*(letters_of(operand) for operand in operands if isinstance(operand, VALUES)))
        case Several(_, items):
            return frozenset().union(*map(variables, items))
    return frozenset()


def _same_interval(one: Interval, other: Interval) -> bool:
    return (
        (one.has_low, one.has_high) == (other.has_low, other.has_high)
        and same_value(one.low, other.low)
        and same_value(one.high, other.high)
    )


def _parts(answer: Answer) -> list[Interval]:
    match answer:
        case Several("set", items):
            points = [item for item in items if isinstance(item, VALUES)]
            if len(points) != len(items):
                raise NoRegion
            return [Interval(point, True, point, True) for point in points]
        case Several("list", items):
            regions = [_parts(item) for item in items if isinstance(item, Relation)]
            if len(regions) != len(items) or len(regions) > MAX_PARTS or len(variables(answer)) != 1:
                raise NoRegion
            both = regions[0]
            for other in regions[1:]:
                both = _intersection(both, other)
            # `x > 1, x < 3` means both; `x < 1, x > 3`, which nothing satisfies, means either.
            return both or [part for parts in regions for part in parts]
        case Several(brackets, (low, high)) if brackets[0] in "([" and brackets[-1] in ")]":
            if isinstance(low, VALUES) and isinstance(high, VALUES):
                return [_interval(low, brackets[0] == "[", high, brackets[-1] == "]")]
        case Combined("cup", left, right):
            return _parts(left) + _parts(right)
        case Combined("cap", left, right):
            return _intersection(_parts(left), _parts(right))
        case Combined("setminus", left, right):
            return _without(_parts(left), _parts(right))
        case Relation(operands, operators):
            return _solutions(operands, operators)
    raise NoRegion


def _solutions(operands: tuple[Answer, ...], operators: tuple[str, ...]) -> list[Interval]:
    if operators == ("in",) and isinstance(operands[0], Symbol):
        return _parts(operands[1])
    match operands:
        case (Symbol(name) | Apply("abs", (Symbol(name),)) as letter, bound) if operators[0] in FLIPPED:
            if isinstance(bound, VALUES) and name not in letters_of(bound):
                return _of_one(letter, operators[0], bound)
        case (bound, Symbol() | Apply("abs", (Symbol(),)) as letter) if operators[0] in FLIPPED:
            return _solutions((letter, bound), (FLIPPED[operators[0]],))
        case (low, Symbol(), high) if isinstance(low, VALUES) and isinstance(high, VALUES):
            if set(operators) <= {"<", "le"}:
                return [_interval(low, operators[0] == "le", high, operators[1] == "le")]
            if set(operators) <= {">", "ge"}:
                return [_interval(high, operators[1] == "ge", low, operators[0] == "ge")]
    raise NoRegion


def _of_one(letter: Value, operator: str, bound: Value) -> list[Interval]:
    closed = operator in ("le", "ge")
    below, above = (
        _interval(MINUS_INFINITY, False, bound, closed),
        _interval(bound, closed, INFINITY, False),
    )
    if isinstance(letter, Symbol):
        return {"<": [below], "le": [below], ">": [above], "ge": [above], "ne": [below, above]}[operator]
    opposite = Apply("neg", (bound,))
    if operator in ("<", "le"):
        return [_interval(opposite, closed, bound, closed)]
    if operator == "ne":
        raise NoRegion
    return [_interval(MINUS_INFINITY, False, opposite, closed), above]


def _interval(low: Value, has_low: bool, high: Value, has_high: bool) -> Interval:
    """An interval whose infinite ends are never in it."""
    ends = real_value(low), real_value(high)
    infinite = float("inf")
    return Interval(
        low, has_low and ends[0] not in (infinite, -infinite), high, has_high and ends[1] not in (infinite, -infinite)
    )


def _is_empty(part: Interval) -> bool:
    low, high = part.at
    return low > high or (low == high and not (part.has_low and part.has_high))


def _intersection(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    return [part for left in one for right in other if not _is_empty(part := _meet(left, right))]


def _meet(one: Interval, other: Interval) -> Interval:
    (low, high), (other_low, other_high) = one.at, other.at
    lower, upper = (one if low >= other_low else other), (one if high <= other_high else other)
    has_low = one.has_low and other.has_low if low == other_low else lower.has_low
    has_high = one.has_high and other.has_high if high == other_high else upper.has_high
    return Interval(lower.low, has_low, upper.high, has_high)


def _without(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    rest = list(one)
    for hole in other:
        around = [
            Interval(MINUS_INFINITY, False, hole.low, not hole.has_low),
            Interval(hole.high, not hole.has_high, INFINITY, False),
        ]
        rest = _intersection(rest, around)
        if len(rest) > MAX_PARTS:
            raise NoRegion
    return rest
