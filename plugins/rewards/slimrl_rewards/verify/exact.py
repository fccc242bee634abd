"""Rational values, computed exactly and within bounds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from slimrl_rewards.verify.nodes import Apply, Based, Number, TooLarge, Value

MAX_BITS: Final = 20_000
"""Of a numerator or denominator."""
MAX_FACTORIAL: Final = 1_000


class NotRational(Exception):
    """The value is no rational number, or it is not known here whether it is."""


def exact(value: Value) -> Fraction:
    """The value as a fraction; NotRational where it is none, TooLarge where it is out of bounds."""
    match value:
        case Number(number):
            return number
        case Based(digits, base):
            return _in_base(digits, base)
        case Apply(name, arguments):
            return _bounded(_apply(name, [exact(argument) for argument in arguments]))
    raise NotRational


def _apply(name: str, arguments: list[Fraction]) -> Fraction:
    first = arguments[0]
    match name:
        case "add":
            return _sum(arguments)
        case "mul":
            return _product(arguments)
        case "neg":
            return -first
        case "inverse" | "div":
            divisor = arguments[-1]
            if divisor == 0:
                raise NotRational
            return 1 / divisor if name == "inverse" else first / divisor
        case "pow":
            return _power(first, arguments[1])
        case "percent":
            return first / 100
        case "abs":
            return abs(first)
        case "floor":
            return Fraction(math.floor(first))
        case "ceil":
            return Fraction(math.ceil(first))
        case "max":
            return max(arguments)
        case "min":
            return min(arguments)
        case "factorial" | "binom" | "gcd" | "lcm":
            return _of_integers(name, arguments)
        case "sqrt":
            return _root(first, 2)
        case "root" if arguments[1].denominator == 1 and 1 <= arguments[1] <= 64:
            return _root(first, arguments[1].numerator)
    raise NotRational


def _sum(terms: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for term in terms:
        total = _bounded(total + term)
    return total


def _product(factors: list[Fraction]) -> Fraction:
    product = Fraction(1)
    for factor in factors:
        product = _bounded(product * factor)
    return product


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base >= 0 and exponent.denominator <= 64:
            return _power(_root(base, exponent.denominator), Fraction(exponent.numerator))
        raise NotRational
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise NotRational
        return base if base != -1 or exponent.numerator % 2 else Fraction(1)
    if abs(exponent) * _bits(base) > MAX_BITS:
        raise TooLarge
    return base**exponent.numerator


def _root(value: Fraction, index: int) -> Fraction:
    if value < 0:
        if index % 2 == 0:
            raise NotRational
        return -_root(-value, index)
    return Fraction(_integer_root(value.numerator, index), _integer_root(value.denominator, index))


def _integer_root(value: int, index: int) -> int:
    if value < 2:
        return value
    if index == 2:
        root = math.isqrt(value)
    else:
        root = 1 << -(-value.bit_length() // index)  # above the root; Newton's steps go down to it
        while True:
            lower = ((index - 1) * root + value // root ** (index - 1)) // index
            if lower >= root:
                break
            root = lower
    if root**index != value:
        raise NotRational
    return root


def _of_integers(name: str, arguments: list[Fraction]) -> Fraction:
    if any(argument.denominator != 1 or argument < 0 for argument in arguments):
        raise NotRational
    integers = [argument.numerator for argument in arguments]
    if name == "gcd":
        return Fraction(math.gcd(*integers))
    if name == "lcm":
        return Fraction(math.lcm(*integers)) if sum(i.bit_length() for i in integers) <= MAX_BITS else _too_large()
    if max(integers) > MAX_FACTORIAL:
        raise TooLarge
    return Fraction(math.factorial(integers[0]) if name == "factorial" else math.comb(*integers))


def _in_base(digits: str, base: int) -> Fraction:
    if not digits.isdecimal() or len(digits) > MAX_FACTORIAL or any(int(digit) >= base for digit in digits):
        raise NotRational
    return Fraction(int(digits, base))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    return value if _bits(value) <= MAX_BITS else _too_large()


def _too_large() -> Fraction:
    raise TooLarge
