"""Which engine holds the beginning of an input: samples of one prompt and later turns share what was computed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from slimrl.engines.member import Key

BLOCK: Final = 64
"""Tokens from one mark to the next."""
MAX_MARKS: Final = 2**16


class Prefixes:
    """Remembers where inputs went by marks: hashes of their beginnings, every `BLOCK` tokens and at the end."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, Key] = OrderedDict()

    def find(self, marks: Sequence[int]) -> Key | None:
        """The engine that has most of an input, when that is at least half of its marks."""
        for mark in reversed(marks[(len(marks) - 1) // 2 :]):
            if (place := self._places.get(mark)) is not None:
                return place
        return None

    def add(self, marks: Sequence[int], place: Key) -> None:
        """An input went to an engine."""
        for mark in marks:
            self._places[mark] = place
            self._places.move_to_end(mark)
        while len(self._places) > MAX_MARKS:
            self._places.popitem(last=False)


def marks_of(input_ids: Sequence[int]) -> list[int]:
    """Hashes of the beginnings of an input, each made of the one before and the next block."""
    marks: list[int] = []
    mark = 0
    for start in range(0, len(input_ids), BLOCK):
        mark = hash((mark, *input_ids[start : start + BLOCK]))
        marks.append(mark)
    return marks
