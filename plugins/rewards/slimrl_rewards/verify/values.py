"""Whether two values are the same number, or the same function of their letters."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from slimrl_rewards.verify.exact import NotRational, exact
from slimrl_rewards.verify.nodes import Apply, Constant, Number, Symbol, Value
from slimrl_rewards.verify.numeric import Undefined, context, evaluate

DIGITS: Final = 60
TOLERANCE_DIGITS: Final = 40
"""Values that agree to this many digits are the same; no answer is a closer approximation of another than that."""
POINTS: Final = 8
"""Points at which two functions are compared, until enough of them lie where both are real."""
ENOUGH: Final = 3
RANGES: Final = ((0.2, 0.9), (1.2, 2.9), (-0.9, -0.2), (-2.9, -1.2), (3.1, 7.9), (0.1, 0.5), (-7.9, -3.1), (9.1, 20.0))


def same_value(one: Value, other: Value) -> bool:
    """Whether two values are equal: exactly if they are rational, else to 40 digits, at several points."""
    if one == other:
        return True
    infinite = infinity(one), infinity(other)
    if infinite != (0, 0):
        return infinite[0] == infinite[1]
    left, right = _exact(one), _exact(other)
    if left is not None and right is not None:
        return left == right
    return _agree(one, other)


def infinity(value: Value) -> int:
    """1 for infinity, -1 for minus infinity, 0 for anything else."""
    if value == Constant("oo"):
        return 1
    if isinstance(value, Apply) and value.name == "neg":
        return -infinity(value.arguments[0])
    return 0


def letters_of(value: Value) -> frozenset[str]:
    """The names of the variables in a value."""
    if isinstance(value, Symbol):
        return frozenset([value.name])
    if isinstance(value, Apply):
        return frozenset().union(*map(letters_of, value.arguments))
    return frozenset()


def constant_ratio(one: Value, other: Value) -> int | None:
    """The sign of k where `one = k * other` for one real constant k other than 0; None where there is none."""
    mp = _context(DIGITS)
    ratio: Any = None
    found = 0
    for letters in _points(letters_of(one) | letters_of(other), mp):
        try:
            left, right = evaluate(one, letters, mp), evaluate(other, letters, mp)
        except Undefined:
            continue
        if left == 0 or right == 0:
            if left != right:
                return None
            continue
        if ratio is None:
            ratio = left / right
        elif not _close(left, ratio * right, mp):
            return None
        found += 1
    if ratio is None or found < ENOUGH or abs(mp.im(ratio)) > mp.mpf(10) ** -TOLERANCE_DIGITS * abs(ratio):
        return None
    return 1 if mp.re(ratio) > 0 else -1


def real_value(value: Value) -> float | None:
    """A constant as a float, to order by; None for what is no real number."""
    if infinity(value):
        return infinity(value) * float("inf")
    if letters_of(value):
        return None
    mp = _context(DIGITS)
    try:
        number = evaluate(value, {}, mp)
    except Undefined:
        return None
    return float(number) if mp.im(number) == 0 else None


def difference(one: Value, other: Value) -> Value:
    """One value minus another."""
    return Apply("add", (one, Apply("neg", (other,))))


def scaled(value: Value, by: Fraction) -> Value:
    """A value times a number."""
    return Apply("mul", (value, Number(by)))


def _exact(value: Value) -> Fraction | None:
    try:
        return exact(value)
    except NotRational:
        return None


def _agree(one: Value, other: Value) -> bool:
    letters = letters_of(one) | letters_of(other)
    mp = _context(DIGITS)
    real = compared = 0
    for point in _points(letters, mp):
        left, right = _or_undefined(one, point, mp), _or_undefined(other, point, mp)
        if left is None or right is None:
            if (left is None) != (right is None) and not letters:
                return False
            continue
        is_real = mp.im(left) == 0 and mp.im(right) == 0
        if letters and not is_real and not _mentions_i(one) and not _mentions_i(other):
            continue  # letters stand for real numbers, where the functions are real
        if not _close(left, right, mp) and not _both_vanish(one, other, point, left, right):
            return False
        compared += 1
        real += is_real
        if real >= ENOUGH or not letters:
            return True
    return compared > 0


def _or_undefined(value: Value, point: dict[str, Any], mp: Any) -> Any:
    try:
        return evaluate(value, point, mp)
    except Undefined:
        return None


def _close(one: Any, other: Any, mp: Any) -> bool:
    return bool(abs(one - other) <= mp.mpf(10) ** -TOLERANCE_DIGITS * max(abs(one), abs(other)))


def _both_vanish(one: Value, other: Value, point: dict[str, Any], left: Any, right: Any) -> bool:
    """Whether both are 0 but for rounding: then they shrink when there are more digits."""
    if max(abs(left), abs(right)) > 10.0**-TOLERANCE_DIGITS:
        return False
    mp = _context(2 * DIGITS)
    left, right = _or_undefined(one, point, mp), _or_undefined(other, point, mp)
    return left is not None and right is not None and bool(max(abs(left), abs(right)) < mp.mpf(10) ** (-DIGITS - 20))


def _mentions_i(value: Value) -> bool:
    if isinstance(value, Apply):
        return any(map(_mentions_i, value.arguments))
    return value == Constant("i")


def _points(letters: frozenset[str], mp: Any) -> Iterator[dict[str, Any]]:
    """Values for the letters: different for different letters, the same in every process."""
    if not letters:
        yield {}
        return
    for index in range(POINTS):
        low, high = RANGES[index]
        point = {}
        for name in letters:
            share = zlib.crc32(f"{name} {index}".encode()) / 2**32
            sign = -1 if index >= 4 and zlib.crc32(name.encode()) % 2 else 1
            point[name] = sign * (mp.mpf(low) + (mp.mpf(high) - low) * share) + mp.mpf(1) / 7**9
        yield point


@lru_cache(maxsize=2)
def _context(digits: int) -> Any:
    return context(digits)
