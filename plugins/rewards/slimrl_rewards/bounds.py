"""How large an expression can get, from its tree alone: asked before any number of it is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from slimrl_rewards.expression import Apply, Binary, Constant, Negative, Node, Number, Symbol, Unreadable

MAX_BITS: Final = 10_000
"""Of the largest number that may arise, numerator and denominator together."""
MAX_TERMS: Final = 2_000
"""Of the expression, multiplied out."""
MAX_LOG_TERMS: Final = math.log(MAX_TERMS)


@dataclass(frozen=True, slots=True)
class Size:
    """Upper bounds: whatever cancels on the way, no number in the expression is larger than 2**bits."""

    bits: float
    terms: float = 1
    literal: float | None = None
    """Magnitude, if it is a number as written; else only `bits` is known of it."""

    @property
    def magnitude(self) -> float:
        """The largest absolute value it can have where it is a number."""
        if self.literal is not None:
            return self.literal
        return 2.0**self.bits if self.bits < 64 else math.inf


def measure(node: Node) -> Size:
    """The bounds of an expression; Unreadable when they exceed MAX_BITS or MAX_TERMS."""
    size = _measure(node)
    if not (size.bits <= MAX_BITS and size.terms <= MAX_TERMS):
        raise Unreadable
    return size


def _measure(node: Node) -> Size:
    match node:
        case Number():
            return _number(node)
        case Symbol():
            return Size(1)
        case Constant():
            return Size(2)
        case Negative(operand):
            return measure(operand)
        case Apply("factorial" | "factorial2", argument, is_known=True):
            size = measure(argument)
            return Size(size.magnitude * max(math.log2(size.magnitude), 1) if size.magnitude > 1 else 1)
        case Apply(_, argument):
            return Size(measure(argument).bits)
        case Binary("+" | "-", left, right):
            one, other = measure(left), measure(right)
            return Size(one.bits + other.bits + 1, one.terms + other.terms)
        case Binary("**", base, exponent):
            return _power(measure(base), measure(exponent))
        case Binary(_, left, right):
            one, other = measure(left), measure(right)
            return Size(one.bits + other.bits, one.terms * other.terms)


def _number(number: Number) -> Size:
    mantissa, _, exponent = number.text.lower().partition("e")
    digits = len(mantissa) + (abs(int(exponent)) if exponent else 0)
    if digits * math.log2(10) > MAX_BITS:
        raise Unreadable
    if number.is_integer:
        integer = int(number.text)
        return Size(max(integer.bit_length(), 1), literal=float(integer) if integer.bit_length() < 64 else math.inf)
    return Size(digits * math.log2(10), literal=float(number.text))


def _power(base: Size, exponent: Size) -> Size:
    times = max(exponent.magnitude, 1.0)
    bits = times * base.bits + exponent.bits
    if base.terms <= 1:
        return Size(bits, exponent.terms)
    if times > MAX_TERMS:
        raise Unreadable
    # Multinomial: the ways to choose `times` of `terms` with repetition.
    log = math.lgamma(times + base.terms) - math.lgamma(times + 1) - math.lgamma(base.terms)
    return Size(bits, max(base.terms, math.exp(log) if log <= MAX_LOG_TERMS else math.inf))
