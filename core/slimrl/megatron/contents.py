"""What a checkpoint says of one model: as it is being trained, or copied to be written while training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from slimrl.config.megatron_folder import RELEASE, TRACKER
from slimrl.megatron import checkpoint as files
from slimrl.megatron.dist_files import write_pieces
from slimrl.megatron.parallel import Parallel
from slimrl.megatron.pieces import Piece, object_keys, weight_pieces
from slimrl.megatron.tensor_files import use_up

if TYPE_CHECKING:
    from slimrl.megatron.optimizer import ModelOptimizer
    from slimrl.megatron.shards import Shards


@dataclass(frozen=True)
class About:
    """What a checkpoint says besides the numbers of a model."""

    state: Mapping[str, Any]
    """Of trainer.json: counters and random states."""
    source: Path
    """Where config and tokenizer are copied from."""
    dtype: torch.dtype
    labels: Sequence[str] = ()
    """Of a token classifier."""
    adapter: Mapping[str, Any] | None = None
    """PEFT's configuration, where the adapters are saved and not the weights."""


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
    about: About
    is_first: bool
    """Whether this process writes."""

    def write(self, folder: Path) -> None:
        """Write a checkpoint."""
        about = self.about
        if self.is_first:
            folder.mkdir(exist_ok=True)
            files.save_checkpoint(
                folder,
                weights=self.weights,
                optimizer=self.optimizer,
                state=about.state,
                source=about.source,
                dtype=about.dtype,
                labels=about.labels,
                adapter=about.adapter,
            )
        use_up(self.weights)
        use_up(self.optimizer or ())

    def write_hf(self, folder: Path) -> None:
        """Write the weights alone as a Hugging Face checkpoint, or the adapters as PEFT has them."""
        about = self.about
        if self.is_first and about.adapter is None:
            files.save_hf_checkpoint(folder, weights=self.weights, source=about.source, dtype=about.dtype)
        elif self.is_first and about.adapter is not None:
            files.save_adapter(folder, weights=self.weights, config=about.adapter)
        use_up(self.weights)

    def in_memory(self) -> GatheredContents:
        """The same in CPU memory, of the first process."""
        weights = _copied(self.weights)
        return replace(self, weights=weights, optimizer=None if self.optimizer is None else _copied(self.optimizer))


@dataclass(frozen=True)
class ShardedContents:
    """Pieces of tensors, in a distributed checkpoint: every process writes its own."""

    weights: Sequence[Piece]
    objects: Sequence[str]
    """Keys that Megatron looks for without anything under them."""
    optimizer: Sequence[Piece] | None
    """None: left out."""
    about: About
    is_first: bool
    group: Any  # torch's process groups have no common type
    """Those who write."""

    def write(self, folder: Path) -> None:
        """Write a checkpoint; its model/ is also one of Megatron."""
        model, about = folder / files.MODEL, self.about
        if self.is_first:
            folder.mkdir(exist_ok=True)
            files.write_hf_config(model, source=about.source, dtype=about.dtype, labels=about.labels)
        write_pieces(model / RELEASE, self.weights, self.group, self.objects)
        if self.optimizer is not None:
            write_pieces(folder / files.OPTIMIZER_PIECES, self.optimizer, self.group)
        if self.is_first:
            (model / TRACKER).write_text(f"{RELEASE}\n")
            files.write_state(folder, about.state)

    def in_memory(self) -> ShardedContents:
        """The same in CPU memory, without what other processes write."""
        optimizer = None if self.optimizer is None else _own_copies(self.optimizer)
        return replace(self, weights=_own_copies(self.weights), optimizer=optimizer)


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


def gathered(shards: Shards, optimizer: ModelOptimizer | None, parallel: Parallel, about: About) -> GatheredContents:
    """What is saved of a model as whole tensors, without the optimizer if there is none."""
    weights = shards.weights() if about.adapter is None else shards.adapter_weights()
    return GatheredContents(weights, None if optimizer is None else optimizer.state(), about, parallel.rank == 0)


def contents_of(
    ckpt_format: Literal["safetensors", "torch_dist"],
    shards: Shards,
    optimizer: ModelOptimizer | None,
    parallel: Parallel,
    about: About,
) -> Contents:
    """What is saved of a model, without the optimizer if there is none; nothing is copied yet."""
    if ckpt_format == "safetensors":
        return gathered(shards, optimizer, parallel, about)
    return ShardedContents(
        weights=[piece for model in shards.models for pieces in weight_pieces(model).values() for piece in pieces],
        objects=[key for model in shards.models for key in object_keys(model)],
        optimizer=None if optimizer is None else optimizer.pieces(),
        about=about,
        is_first=parallel.rank == 0,
        group=parallel.files_group,
    )


def _copied(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in tensors]


def _own_copies(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece.copied() for piece in pieces if piece.is_only]
