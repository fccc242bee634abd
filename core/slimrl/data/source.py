"""The stream of groups: every prompt once an epoch, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimrl.data.prompts import PromptRow
from slimrl.types import Group, Prompt, Sample

Encode = Callable[[Prompt, str], list[int]]


class Prompts(Protocol):
    """Rows by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> PromptRow: ...
    def where(self, index: int, /) -> str: ...


def sample_seed(seed: int, sample_id: int) -> int:
    """A 31-bit sampling seed of one sample, independent of all others: equal prompts get different noise."""
    return int(np.random.SeedSequence([seed, sample_id]).generate_state(1)[0]) >> 1


def new_group(row: PromptRow, tokens: list[int], *, group_id: int, size: int, seed: int, source: str = "") -> Group:
    """`size` pending samples of one prompt."""
    ids = range(group_id * size, (group_id + 1) * size)
    samples = [
        Sample(
            group_id=group_id,
            sample_id=sample_id,
            rollout_id=sample_id,
            prompt=row.prompt,
            prompt_tokens=tokens,
            label=row.label,
            metadata=dict(row.metadata),
            seed=sample_seed(seed, sample_id),
        )
        for sample_id in ids
    ]
    return Group(group_id=group_id, samples=samples, source=source)


@dataclass
class Position:
    """Where the stream stands."""

    epoch: int = 0
    offset: int = 0
    next_group_id: int = 0


class PromptSource:
    """Implements DataSource over a prompt file."""

    def __init__(self, prompts: Prompts, encode: Encode, *, group_size: int, shuffle: bool, seed: int) -> None:
        self._prompts = prompts
        self._encode = encode
        self._group_size = group_size
        self._shuffle = shuffle
        self._seed = seed
        self.position = Position()
        self._order = self._order_of(0)

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        order = np.arange(len(self._prompts))
        if self._shuffle:
            np.random.default_rng([self._seed, epoch]).shuffle(order)
        return order

    def take(self, count: int) -> list[Group]:
        """The next `count` groups, over as many epochs as that takes."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Group:
        at = self.position
        if at.offset == len(self._order):
            at.epoch, at.offset = at.epoch + 1, 0
            self._order = self._order_of(at.epoch)
        index = int(self._order[at.offset])
        row = self._prompts[index]
        tokens = self._encode(row.prompt, self._prompts.where(index))
        group = new_group(row, tokens, group_id=at.next_group_id, size=self._group_size, seed=self._seed)
        at.offset += 1
        at.next_group_id += 1
        return group

    def state(self) -> dict[str, Any]:
        """The position as JSON values."""
        return {
            "epoch": self.position.epoch,
            "offset": self.position.offset,
            "next_group_id": self.position.next_group_id,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a position that `state` returned."""
        self.position = Position(**state)
        self._order = self._order_of(self.position.epoch)
