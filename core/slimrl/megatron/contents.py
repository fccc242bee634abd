"""What a checkpoint says of one model: as it is being trained, or copied to be written while training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from slimrl.megatron import checkpoint as files
from slimrl.megatron.tensor_files import use_up


class Contents(Protocol):
    """Weights, optimizer state and counters of one model; every process has one and all must write at once."""

    def write(self, folder: Path) -> None:
        """Write everything into a folder, which is made if it is not there."""

    def in_memory(self) -> Contents:
        """The same, copied: later training changes nothing of it."""


@dataclass(frozen=True)
class GatheredContents:
    """Whole tensors, which come together in the first process; the others only give their shares."""

    weights: Iterable[tuple[str, Tensor]]
    """By their Hugging Face names, or those of the adapters in PEFT."""
    optimizer: Iterable[tuple[str, Tensor]] | None
    """None: left out."""
    state: dict[str, Any]
    """Of trainer.json: counters and random states."""
    source: Path
    """Where config and tokenizer are copied from."""
    dtype: torch.dtype
    is_first: bool
    """Whether this process writes."""
    labels: Sequence[str] = ()
    adapter: Mapping[str, Any] | None = None
    """PEFT's configuration."""

    def write(self, folder: Path) -> None:
        """Write a checkpoint."""
        if self.is_first:
            folder.mkdir(exist_ok=True)
            files.save_checkpoint(
                folder,
                weights=self.weights,
                optimizer=self.optimizer,
                state=self.state,
                source=self.source,
                dtype=self.dtype,
                labels=self.labels,
                adapter=self.adapter,
            )
        use_up(self.weights)
        use_up(self.optimizer or ())

    def write_hf(self, folder: Path) -> None:
        """Write the weights alone as a Hugging Face checkpoint, or the adapters as PEFT has them."""
        if self.is_first and self.adapter is None:
            files.save_hf_checkpoint(folder, weights=self.weights, source=self.source, dtype=self.dtype)
        elif self.is_first and self.adapter is not None:
            files.save_adapter(folder, weights=self.weights, config=self.adapter)
        use_up(self.weights)

    def in_memory(self) -> GatheredContents:
        """The same in CPU memory, of the first process."""
        weights = _copied(self.weights)
        return replace(self, weights=weights, optimizer=None if self.optimizer is None else _copied(self.optimizer))


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint that is still to be written, in CPU memory."""

    parts: Mapping[str, Contents]
    """By the folder in the checkpoint."""
    export: GatheredContents | None = None
    """What --save-hf writes."""

    def write(self, folder: Path) -> None:
        """Write the checkpoint into an existing folder; of several processes all must do so at once."""
        for name, contents in self.parts.items():
            contents.write(folder / name)

    def write_hf(self, folder: Path) -> None:
        """Write what --save-hf asks for; in the first process."""
        assert self.export is not None, "asked for with the snapshot"
        self.export.write_hf(folder)


def _copied(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in tensors]
