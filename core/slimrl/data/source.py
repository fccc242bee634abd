"""The stream of groups: epoch after epoch, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np

from slimrl.data.epoch import Part, epoch_order
from slimrl.data.prompts import PromptRow
from slimrl.errors import CheckpointError
from slimrl.types import Group, Sample

logger = logging.getLogger(__name__)

FOREIGN: Final = "data_source"
"""In the position of a data source of the user's: its name."""

Encode = Callable[[PromptRow, str], list[int]]
"""Token ids of a row's prompt; raises DataError with the row's place."""


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
    """Implements DataSource; `parts` are the shares of an epoch, `source_of` names the file that a prompt is in."""

    def __init__(
        self,
        prompts: Prompts,
        encode: Encode,
        *,
        group_size: int,
        shuffle: bool,
        seed: int,
        parts: Sequence[Part] | None = None,
        source_of: Callable[[int], str] = lambda index: "",
    ) -> None:
        self._prompts = prompts
        self._encode = encode
        self._group_size = group_size
        self._shuffle = shuffle
        self._seed = seed
        self._parts = [Part(len(prompts))] if parts is None else list(parts)
        self._source_of = source_of
        self._go_to(Position())

    def _go_to(self, position: Position) -> None:
        self.position = position
        self._order = epoch_order(self._parts, position.epoch, shuffle=self._shuffle, seed=self._seed)

    def take(self, count: int) -> list[Group]:
        """The next `count` groups, over as many epochs as that takes."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Group:
        if self.position.offset == len(self._order):
            self._go_to(Position(self.position.epoch + 1, 0, self.position.next_group_id))
        at = self.position
        index = int(self._order[at.offset])
        row = self._prompts[index]
        group = new_group(
            row,
            self._encode(row, self._prompts.where(index)),
            group_id=at.next_group_id,
            size=self._group_size,
            seed=self._seed,
            source=self._source_of(index),
        )
        at.offset += 1
        at.next_group_id += 1
        return group

    def __len__(self) -> int:
        """Prompts in the epoch that the stream is in."""
        return len(self._order)

    def state(self) -> dict[str, Any]:
        """The position as JSON values, with the size of the epoch that it is in."""
        return {**asdict(self.position), "epoch_size": len(self._order)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a position that `state` returned; in other prompts, to the beginning of the next epoch."""
        if FOREIGN in state:
            raise CheckpointError(
                f"the checkpoint stands in the prompts of the data source {state[FOREIGN]!r}, not in those of "
                "--prompt-data; give --data-source-path too, or begin anew from its weights with --ref-load"
            )
        position = dict(state)
        size = position.pop("epoch_size", None)
        self._go_to(Position(**position))
        if size is not None and size != len(self._order):
            logger.warning(
                "the checkpoint stands in an epoch of %d prompts and the data now makes one of %d: epoch %d begins",
                size,
                len(self._order),
                self.position.epoch + 1,
            )
            self._go_to(Position(self.position.epoch + 1, 0, self.position.next_group_id))
