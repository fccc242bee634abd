"""Whether two expressions are mathematically equal: refuted by a number first, proved by sympy then."""

from __future__ import annotations

import cmath
import math
import operator
import re
from collections.abc import Callable
from typing import Any, Final

import sympy

from slimrl_rewards.bounds import measure
from slimrl_rewards.expression import Apply, Binary, Constant, Negative, Node, Number, Symbol, Unreadable, parse

TOLERANCE: Final = 1e-6
"""Relative: two sides further apart than this at one point are different expressions."""
OPERATIONS: Final = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
TOO_HARD: Final = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]+")
MAX_LETTERS: Final = 2


def is_comparable(expression: str) -> bool:
    """Whether slime lets sympy at it: at most two different letters, no powers in brackets, of powers or above 9."""
    letters = {character for character in expression.replace("sqrt", "").replace("frac", "") if character.isalpha()}
    return len(letters) <= MAX_LETTERS and TOO_HARD.search(expression) is None


def are_equal(one: str, other: str, reserved: dict[str, Any]) -> bool:  # Any: see expression.reserved_names
    """Whether `one - other` simplifies to zero; False for what is no expression or out of bounds."""
    difference = f"({one})-({other})"
    if not is_comparable(difference):
        return False
    try:
        node = parse(difference, reserved)
        measure(node)
    except Unreadable:
        return False
    if isinstance(node, Binary) and _differ_at_a_point(node.left, node.right):
        return False
    try:
        exact = _exact(node)
        return bool(exact == 0 or sympy.simplify(exact) == 0)
    except Exception:  # sympy raises anything on expressions that make no sense; such are not equal
        return False


def _differ_at_a_point(one: Node, other: Node) -> bool:
    """Whether the sides are clearly unequal for some values of the letters; False also where that is unknown."""
    try:
        left, right = _approximate(one), _approximate(other)
        return abs(left - right) > TOLERANCE * (1 + abs(left) + abs(right))  # False for nan
    except (ArithmeticError, ValueError, TypeError):  # overflow, a pole, an operation complex numbers lack
        return False


def _approximate(node: Node) -> complex:
    match node:
        case Number(text):
            return complex(float(text))
        case Symbol(name):
            # Positive, irrational-looking and different for different names; the same in every process.
            return complex(0.3 + math.modf(sum(ord(c) * 0.6180339887**i for i, c in enumerate(name, 1)))[0])
        case Constant("pi"):
            return complex(math.pi)
        case Constant("I"):
            return 1j
        case Apply(function, argument, is_known):
            return _apply(function, _approximate(argument), is_known)
        case Negative(operand):
            return -_approximate(operand)
        case Binary(symbol, left, right):
            return complex(OPERATIONS[symbol](_approximate(left), _approximate(right)))
    raise ValueError(f"no finite value: {node}")


def _apply(function: str, argument: complex, is_known: bool) -> complex:
    if not is_known:  # any function will do, if it is the same on both sides
        return cmath.sin(argument + sum(map(ord, function)))
    if function == "sqrt":
        return cmath.sqrt(argument)
    if function == "ln":
        return cmath.log(argument)
    if function == "factorial" and argument.imag == 0:
        return complex(math.gamma(argument.real + 1))
    raise ValueError(f"no approximation of {function}")


def _exact(node: Node) -> Any:  # Any: sympy has no type information
    match node:
        case Number(text, is_integer):
            return sympy.Integer(text) if is_integer else sympy.Float(text)
        case Symbol(name):
            return sympy.Symbol(name)
        case Constant(name):
            return {"pi": sympy.pi, "oo": sympy.oo, "I": sympy.I}[name]
        case Apply(function, argument, is_known):
            make: Callable[[Any], Any] = getattr(sympy, function) if is_known else sympy.Function(function)
            return make(_exact(argument))
        case Negative(operand):
            return -_exact(operand)
        case Binary(symbol, left, right):
            return OPERATIONS[symbol](_exact(left), _exact(right))
