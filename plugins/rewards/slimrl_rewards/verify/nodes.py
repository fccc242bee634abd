"""What an answer is made of, once read: values, and the ways they are put together. Nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal


class Unreadable(Exception):
    """Text outside the language that is read here."""


class TooLarge(Exception):
    """Mathematics whose numbers are out of bounds; nothing is claimed of it."""


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number; decimals are exact."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, with its index if it has one."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """`pi`, `e`, `i` or infinity (`oo`)."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation or function by name, with its arguments."""

    name: str
    arguments: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a base that is written with them."""

    digits: str
    base: int


Value = Number | Symbol | Constant | Apply | Based


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with what it is a number of."""

    value: Value
    unit: str


@dataclass(frozen=True, slots=True)
class Several:
    """Answers side by side: a list, a set or a ratio; a tuple or an interval has its two brackets as its kind."""

    kind: str
    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain like `1 <= x < 2`: one operator fewer than operands."""

    operands: tuple[Answer, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Combined:
    """Sets joined, intersected or taken away from each other."""

    operator: Literal["cup", "cap", "setminus"]
    left: Answer
    right: Answer


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of answers."""

    rows: tuple[tuple[Answer, ...], ...]


Answer = Value | Quantity | Several | Relation | Combined | Matrix

VALUES = (Number, Symbol, Constant, Apply, Based)
EVERYTHING = Several("()", (Apply("neg", (Constant("oo"),)), Constant("oo")))
"""The real numbers."""
NOTHING = Several("set", ())
"""The empty set."""
