"""An answer as a syntax tree of a few kinds of node; nothing in it is evaluated.

sympy's tokeniser turns text into the Python expression that sympy would evaluate (implicit multiplication, split
symbols, factorials). Here that expression is only parsed, and what is not of this small language is refused: text
that a model wrote never reaches `eval`.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any, Final, Literal

from sympy.parsing import sympy_parser

MAX_CHARS: Final = 1_000
MAX_NESTING: Final = 50
MAX_DEPTH: Final = 200
"""Of the tree: a long sum is as deep as it has terms."""
CONSTANTS: Final = frozenset({"pi", "oo", "I"})
FUNCTIONS: Final = frozenset({"sqrt", "ln", "factorial", "factorial2"})
TRANSFORMATIONS: Final = (
    *sympy_parser.standard_transformations,
    sympy_parser.implicit_multiplication_application,
)


class Unreadable(Exception):
    """Text that is no expression of this language, or one too large to work with."""


@dataclass(frozen=True, slots=True)
class Number:
    """An integer or a decimal as it is written."""

    text: str
    is_integer: bool


@dataclass(frozen=True, slots=True)
class Symbol:
    """A letter, or a letter with an index."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """pi, infinity or the imaginary unit."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of one argument; one that is not `known` is a letter before brackets, as in `n(n+1)!`."""

    function: str
    argument: Node
    is_known: bool


@dataclass(frozen=True, slots=True)
class Negative:
    """Minus something."""

    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands and what is between them."""

    operator: Literal["+", "-", "*", "/", "//", "%", "**"]
    left: Node
    right: Node


Node = Number | Symbol | Constant | Apply | Negative | Binary


def reserved_names() -> dict[str, Any]:  # Any: sympy's whole namespace, which its tokeniser looks names up in
    """The names that sympy's tokeniser does not take for symbols: sympy's own and the built-in functions."""
    sympy = importlib.import_module("sympy")
    functions = {name: value for name, value in vars(builtins).items() if isinstance(value, BuiltinFunctionType)}
    return {name: getattr(sympy, name) for name in sympy.__all__} | functions


def parse(text: str, reserved: dict[str, Any]) -> Node:  # Any: see reserved_names
    """The tree of an expression; Unreadable when it is none."""
    if len(text) > MAX_CHARS or _nesting(text) > MAX_NESTING:
        raise Unreadable
    try:
        code = sympy_parser.stringify_expr(text.replace("^", "**"), {}, reserved, TRANSFORMATIONS)
        tree = ast.parse(code.strip(), mode="eval").body
    except Exception as error:  # tokeniser and parser raise many kinds; each means that this is no expression
        raise Unreadable from error
    return _node(tree, 0)


def _node(tree: ast.AST, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise Unreadable
    depth += 1
    match tree:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=[]):
            return Symbol(name)
        case ast.Call(func=ast.Name(id="Integer" | "Number"), args=[ast.Constant(value=value)], keywords=[]):
            return _integer(str(value))
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(text))], keywords=[]):
            return Number(text, is_integer=False)
        case ast.Call(func=ast.Name(id="Integer"), args=[argument], keywords=[]):  # in a repeating decimal
            return _node(argument, depth)
        case ast.Call(func=ast.Name(id="Rational"), args=[numerator, denominator], keywords=[]):
            return Binary("/", _node(numerator, depth), _node(denominator, depth))
        case ast.Name(id=name) if name in CONSTANTS:
            return Constant(name)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return Apply(name, _node(argument, depth), is_known=True)
        case ast.Call(
            func=ast.Call(func=ast.Name(id="Function"), args=[ast.Constant(value=str(name))], keywords=[]),
            args=[argument],
            keywords=[],
        ):
            return Apply(name, _node(argument, depth), is_known=False)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _node(operand, depth)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Negative(_node(operand, depth))
        case ast.BinOp(left=left, op=operator, right=right):
            return Binary(_operator(operator), _node(left, depth), _node(right, depth))
    raise Unreadable


def _integer(text: str) -> Number:
    if not (text.isascii() and text.isdecimal()):  # a superscript is a digit to the tokeniser
        raise Unreadable
    return Number(text, is_integer=True)


def _operator(operator: ast.operator) -> Literal["+", "-", "*", "/", "//", "%", "**"]:
    match operator:
        case ast.Add():
            return "+"
        case ast.Sub():
            return "-"
        case ast.Mult():
            return "*"
        case ast.Div():
            return "/"
        case ast.FloorDiv():
            return "//"
        case ast.Mod():
            return "%"
        case ast.Pow():
            return "**"
    raise Unreadable


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
