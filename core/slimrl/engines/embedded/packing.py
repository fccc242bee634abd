"""Packs prompts for one forward pass so that a token that several prompts begin with is computed once."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from slimrl.engines.embedded.runner import Prompt


@dataclass(slots=True)
class Packed:
    """One prompt's part of a forward pass."""

    prompt: Prompt
    nodes: list[int]
    """Row of the pass that holds position `prompt.num_done + i`; leading ones may be another prompt's."""
    first_own: int
    """Row of the pass where this prompt's own tokens begin; they are the rest of `nodes`."""
    num_own: int

    @property
    def end(self) -> int:
        """Tokens that are stored after the pass."""
        return self.prompt.num_done + len(self.nodes)

    @property
    def own_start(self) -> int:
        """Position of the first own token."""
        return self.end - self.num_own


@dataclass(slots=True)
class Pack:
    """Token rows of one forward pass: every node of a forest of prompts, each once."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[Packed] = field(default_factory=list)

    def append(self, prompt: Prompt, shared: list[int], end: int) -> Packed:
        """Add a prompt up to position `end`, of which rows `shared` are in the pass already."""
        start = prompt.num_done + len(shared)
        first = len(self.tokens)
        self.tokens.extend(prompt.context[start:end])
        self.positions.extend(range(start, end))
        part = Packed(prompt, shared + list(range(first, first + end - start)), first, end - start)
        self.parts.append(part)
        return part


class PromptIndex:
    """Stored prompts in lexicographic order: the longest shared beginning is always with a neighbour."""

    def __init__(self) -> None:
        self._contexts: list[tuple[int, ...]] = []
        self._prompts: dict[tuple[int, ...], Prompt] = {}

    def add(self, prompt: Prompt) -> None:
        """Store a prompt, unless one with the same context is there."""
        if prompt.context not in self._prompts:
            insort(self._contexts, prompt.context)
            self._prompts[prompt.context] = prompt

    def discard(self, prompt: Prompt) -> None:
        """Take a prompt out, if it is in."""
        if self._prompts.get(prompt.context) is prompt:
            del self._prompts[prompt.context]
            del self._contexts[bisect_left(self._contexts, prompt.context)]

    def clear(self) -> None:
        """Forget all prompts."""
        self._contexts.clear()
        self._prompts.clear()

    def nearest(self, context: tuple[int, ...]) -> tuple[Prompt | None, int]:
        """The stored prompt with the longest common beginning, and that length in tokens."""
        place = bisect_left(self._contexts, context)
        best: Prompt | None = None
        best_length = 0
        for neighbour in self._contexts[max(0, place - 1) : place + 1]:
            length = common_length(context, neighbour)
            if length > best_length:
                best, best_length = self._prompts[neighbour], length
        return best, best_length


def common_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many leading tokens two contexts share."""
    low, high = 0, min(len(one), len(other))
    # halving compares slices in C; almost always the first or the last probe decides
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
