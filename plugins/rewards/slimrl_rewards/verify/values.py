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
MAX_WRITTEN: Final = 1_000
"""Digits of a written number that count; so many are read."""
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
    precision = _written_digits(one) + _written_digits(other)
    if letters:  # letters stand for real numbers, where all is real anywhere
        verdict = _agree_at_points(one, other, letters, precision, is_real=True)
        if verdict is not None:
            return verdict
    return bool(_agree_at_points(one, other, letters, precision, is_real=False))


def _agree_at_points(
    one: Value, other: Value, letters: frozenset[str], precision: int, *, is_real: bool
) -> bool | None:
    """Whether the two agree wherever both are defined; None if that is nowhere."""
    mp = _context(DIGITS + precision)
    compared = 0
    for index, point in enumerate(_points(letters, mp)):
        try:
            left = evaluate(one, point, mp, is_real=is_real)
            right = evaluate(other, point, mp, is_real=is_real)
        except Undefined:
            continue
        if not _close(left, right, mp, TOLERANCE_DIGITS + precision) and not (
            _vanishes(one, left, letters, index, mp) and _vanishes(other, right, letters, index, mp)
        ):
            return False
        compared += 1
        if compared >= ENOUGH:
            break
    return True if compared else None


def _close(one: Any, other: Any, mp: Any, digits: int = TOLERANCE_DIGITS) -> bool:
    return bool(abs(one - other) <= mp.mpf(10) ** -digits * max(abs(one), abs(other)))


def _vanishes(value: Value, number: Any, letters: frozenset[str], index: int, mp: Any) -> bool:
    """Whether a number is 0 but for rounding: with more digits, less is left of it."""
    if number == 0:
        return True
    if abs(number) > mp.mpf(10) ** -TOLERANCE_DIGITS:
        return False
    finer = _context(mp.dps + DIGITS)
    try:
        rest = evaluate(value, list(_points(letters, finer))[index], finer)
    except Undefined:
        return False
    return bool(abs(rest) <= abs(number) * finer.mpf(10) ** (-DIGITS // 2))


def _written_digits(value: Value) -> int:
    """Digits of the longest number in a value, if it is longer than numbers are."""
    if isinstance(value, Number):
        bits = max(value.value.numerator.bit_length(), value.value.denominator.bit_length())
        return min(bits // 3, MAX_WRITTEN) if bits > 60 else 0
    return max(map(_written_digits, value.arguments)) if isinstance(value, Apply) else 0


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


@lru_cache(maxsize=8)
def _context(digits: int) -> Any:
    return context(digits)
