"""Tokens to an answer, by recursive descent; nothing is computed on the way."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from slimrl_rewards.verify import lexer
from slimrl_rewards.verify.arithmetic import Arithmetic
from slimrl_rewards.verify.lexer import END, Token
from slimrl_rewards.verify.nodes import (
    EVERYTHING,
    NOTHING,
    VALUES,
    Answer,
    Apply,
    Combined,
    Matrix,
    Number,
    Quantity,
    Relation,
    Several,
    TooLarge,
    Unreadable,
    Value,
)
from slimrl_rewards.verify.signs import expanded

MAX_TOKENS: Final = 1_000
RELATIONS: Final = frozenset(["=", "<", ">", "<=", ">=", "!=", "le", "ge", "ne", "in"])
SPELLING: Final = {"<=": "le", ">=": "ge", "!=": "ne"}
SEPARATORS: Final = frozenset([",", ";", "or", "and"])
MATRICES: Final = re.compile(r"begin:([pbvBV]?matrix|smallmatrix|array)")


def parse(tokens: list[Token]) -> Answer:
    """The answer that the tokens make; Unreadable where they make none."""
    if len(tokens) > MAX_TOKENS:
        raise TooLarge
    parser = _Parser(tokens)
    answer = parser.answers()
    if parser.next is not END:
        raise Unreadable
    return expanded(answer) if parser.has_signs else answer


class _Parser(Arithmetic):
    def answers(self) -> Answer:
        items = [self.item()]
        while self.at(*SEPARATORS):
            while self.took(*SEPARATORS):  # an Oxford comma
                pass
            if self.next is END:
                break
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        return Several("list", tuple(items))

    def item(self) -> Answer:
        operands = [self.operand()]
        operators: list[str] = []
        while self.at(*RELATIONS):
            operator = self.take().text
            operators.append(SPELLING.get(operator, operator))
            if operators[-1] == "=":
                self.took("approx")
            operands.append(self.operand())
        return Relation(tuple(operands), tuple(operators)) if operators else operands[0]

    def operand(self) -> Answer:
        left = self.quantity()
        while self.at("cup", "cap", "setminus"):
            operator = self.take().text
            right = self.quantity()
            if operator == "cup":
                left = Combined("cup", left, right)
            elif operator == "cap":
                left = Combined("cap", left, right)
            else:
                left = Combined("setminus", left, right)
        if not self.bar_ends and self.at(":"):
            parts = [left]
            while self.took(":"):
                parts.append(self.quantity())
            return Several("ratio", tuple(parts))
        return left

    def quantity(self) -> Answer:
        unit = ""
        if self.next.text.startswith("$") and self.next.kind == "command":
            unit = self.take().text[1:]
        answer = self.sum()
        if not isinstance(answer, VALUES):
            return answer
        if self.next.kind == "text" and self.next.text.lower() in lexer.NUMBER_WORDS:
            scale = Number(Fraction(lexer.NUMBER_WORDS[self.take().text.lower()]))
            answer = Apply("mul", (answer, scale))
        if isinstance(answer, Apply) and answer.name == "degree" and self.next.text in ("C", "F"):
            answer, unit = answer.arguments[0], "deg" + self.take().text
        unit += self.unit()
        return _of(answer, unit)

    def unit(self) -> str:
        unit = ""
        while True:
            token = self.next
            following = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
            if token.kind == "text" or (token.kind == "command" and token.text.startswith("$")):
                unit += " " + self.take().text.lstrip("$").strip(" .")
            elif unit and token.text == "^":
                self.take()
                exponent = self.group()
                if not isinstance(exponent, Number) or exponent.value.denominator != 1:
                    raise Unreadable
                unit += f"^{exponent.value.numerator}"
            elif unit and token.text in ("/", "*") and following.kind in ("text", "letter"):
                unit += self.take().text + self.take().text
            else:
                return unit

    def structure(self, name: str) -> Answer:
        if name == "{":
            return self.set_of()
        if name == "mathbb:R":
            return EVERYTHING
        if name == "emptyset":
            return NOTHING
        if MATRICES.fullmatch(name):
            return self.matrix(name)
        raise Unreadable

    def set_of(self) -> Answer:
        if self.took("}"):
            return NOTHING
        saved, self.bar_ends = self.bar_ends, True
        inside = self.answers()
        self.bar_ends = saved
        if self.took(":", "|"):
            inside = self.answers()
            self.expect("}")
            return inside
        self.expect("}")
        items = inside.items if isinstance(inside, Several) and inside.kind == "list" else (inside,)
        return Several("set", items)

    def matrix(self, opening: str) -> Matrix:
        rows: list[tuple[Answer, ...]] = []
        row: list[Answer] = []
        if opening == "begin:array":
            self.expect("{")
            while not self.took("}"):
                if self.take() is END:
                    raise Unreadable
        closing = "end" + opening[5:]
        while True:
            row.append(self.quantity())
            separator = self.expect("&", "\\", closing)
            if separator != "&":
                rows.append(tuple(row))
                row = []
            if separator == closing or (separator == "\\" and self.took(closing)):
                return Matrix(tuple(rows))


def _of(value: Value, unit: str) -> Answer:
    match unit.strip().lower():
        case "":
            return value
        case "degrees" | "degree" | "deg":
            return value if isinstance(value, Apply) and value.name == "degree" else Apply("degree", (value,))
        case "percent" | "pct" | "per cent":
            return Apply("percent", (value,))
    return Quantity(value, unit.strip())
