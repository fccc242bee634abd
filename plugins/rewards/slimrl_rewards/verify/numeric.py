"""Values to many digits, for given values of their letters, and within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import mpmath

from slimrl_rewards.verify.exact import NotRational, exact
from slimrl_rewards.verify.nodes import Apply, Based, Constant, Number, Symbol, TooLarge, Value

MAX_EXPONENT: Final = 100_000
"""Largest absolute natural logarithm of a power."""
MAX_GAMMA: Final = 2_000
MAX_PHASE: Final = 10.0**9

Digits = Any
"""mpmath has no type information: an mpf or an mpc."""


class Undefined(Exception):
    """A value that does not exist: a pole, or a function that is not known here."""


def context(digits: int) -> Any:  # Any: see Digits
    """Arithmetic of that precision, with no state that others share."""
    made = mpmath.MPContext()
    made.dps = digits
    return made


def evaluate(value: Value, letters: Mapping[str, Digits], mp: Any, *, is_real: bool = False) -> Digits:
    """The number that a value is; Undefined where it is none, TooLarge out of bounds.

    Where all is real, a part that is not is undefined: the square root of a negative number.
    """
    match value:
        case Number(number):
            return mp.mpf(number.numerator) / number.denominator
        case Symbol(name):
            return letters[name]
        case Constant("pi"):
            return +mp.pi
        case Constant("e"):
            return +mp.e
        case Constant("i"):
            return mp.mpc(0, 1)
        case Based():
            try:
                return mp.mpf(exact(value).numerator)
            except NotRational as error:
                raise Undefined from error
        case Apply(name, arguments):
            numbers = [evaluate(argument, letters, mp, is_real=is_real) for argument in arguments]
            try:
                number = _checked(FUNCTIONS[name](mp, *numbers), mp)
            except (ArithmeticError, ValueError, TypeError, KeyError) as error:
                raise Undefined from error
            if is_real and mp.im(number) != 0:
                raise Undefined
            return number
    raise Undefined


def _checked(number: Digits, mp: Any) -> Digits:
    if not mp.isfinite(number):
        raise Undefined
    size = abs(mp.mag(number)) if number else 0
    if size > 2 * MAX_EXPONENT:
        raise TooLarge
    return number


def _power(mp: Any, base: Digits, exponent: Digits) -> Digits:
    if base == 0:
        if mp.re(exponent) > 0:
            return mp.mpf(0)
        raise Undefined
    if abs(exponent) * max(abs(float(mp.re(mp.ln(base)))), 4.0) > MAX_EXPONENT:
        raise TooLarge
    return mp.power(base, exponent)


def _exp(mp: Any, exponent: Digits) -> Digits:
    return _power(mp, mp.e, exponent)


def _factorial(mp: Any, argument: Digits) -> Digits:
    if abs(argument) > MAX_GAMMA:
        raise TooLarge
    return mp.gamma(argument + 1)


def _binomial(mp: Any, upper: Digits, lower: Digits) -> Digits:
    if max(abs(upper), abs(lower)) > MAX_GAMMA:
        raise TooLarge
    return mp.binomial(upper, lower)


def _root(mp: Any, radicand: Digits, index: Digits) -> Digits:
    is_odd = mp.isint(index) and int(index) % 2 == 1
    if is_odd and mp.im(radicand) == 0 and mp.re(radicand) < 0:  # the real root of a negative number
        return -_power(mp, -radicand, 1 / index)
    return _power(mp, radicand, 1 / index)


def _periodic(name: str) -> Callable[..., Digits]:
    def function(mp: Any, argument: Digits) -> Digits:
        if abs(mp.re(argument)) > MAX_PHASE or abs(mp.im(argument)) > MAX_EXPONENT:
            raise TooLarge
        return getattr(mp, name)(argument)

    return function


def _plain(name: str) -> Callable[..., Digits]:
    return lambda mp, argument: getattr(mp, name)(argument)


def _hyperbolic(name: str) -> Callable[..., Digits]:
    def function(mp: Any, argument: Digits) -> Digits:
        if abs(argument) > MAX_EXPONENT:
            raise TooLarge
        return getattr(mp, name)(argument)

    return function


FUNCTIONS: Final[Mapping[str, Callable[..., Digits]]] = {
    "add": lambda mp, *terms: mp.fsum(terms),
    "mul": lambda mp, *factors: math.prod(factors),
    "neg": lambda mp, argument: -argument,
    "inverse": lambda mp, argument: 1 / argument,
    "div": lambda mp, numerator, denominator: numerator / denominator,
    "pow": _power,
    "root": _root,
    "sqrt": _plain("sqrt"),
    "ln": _plain("ln"),
    "exp": _exp,
    "percent": lambda mp, argument: argument / 100,
    "degree": lambda mp, argument: argument * mp.pi / 180,
    "abs": lambda mp, argument: abs(argument),
    "floor": _plain("floor"),
    "ceil": _plain("ceil"),
    "max": lambda mp, *arguments: max(arguments),
    "min": lambda mp, *arguments: min(arguments),
    "factorial": _factorial,
    "binom": _binomial,
    **{name: _periodic(name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: _hyperbolic(name) for name in ("sinh", "cosh", "tanh")},
    "arcsin": _plain("asin"),
    "arccos": _plain("acos"),
    "arctan": _plain("atan"),
}
