"""Answers with a plus-minus sign as the two answers that they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from slimrl_rewards.verify.nodes import Answer, Apply, Combined, Matrix, Quantity, Relation, Several, Value


def expanded(answer: Answer) -> Answer:
    """The answer with a list of two in the place of each value that has a plus-minus sign."""
    match answer:
        case Quantity(value, unit) if _has_signs(value):
            return Several("list", tuple(Quantity(_chosen(value, sign), unit) for sign in (1, -1)))
        case Several(kind, items):
            return Several(kind, tuple(_flat(items) if kind in ("list", "set") else map(expanded, items)))
        case Relation(operands, operators):
            return Relation(tuple(map(expanded, operands)), operators)
        case Quantity() | Combined() | Matrix():
            return answer
    return Several("list", (_chosen(answer, 1), _chosen(answer, -1))) if _has_signs(answer) else answer


def _flat(items: Iterable[Answer]) -> Iterator[Answer]:
    for item in map(expanded, items):
        if isinstance(item, Several) and item.kind == "list":
            yield from item.items
        else:
            yield item


def _has_signs(value: Value) -> bool:
    return isinstance(value, Apply) and (value.name in ("pm", "mp") or any(map(_has_signs, value.arguments)))


def _chosen(value: Value, sign: int) -> Value:
    """The value for the upper or the lower of its plus-minus signs."""
    if not isinstance(value, Apply):
        return value
    if value.name in ("pm", "mp"):
        (argument,) = value.arguments
        inside = _chosen(argument, sign)
        return inside if (value.name == "pm") == (sign > 0) else Apply("neg", (inside,))
    return Apply(value.name, tuple(_chosen(argument, sign) for argument in value.arguments))
