"""How one Megatron parameter corresponds to Hugging Face tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from slimrl.megatron.shape import ModelShape


@dataclass(frozen=True)
class Split:
    """How tensor-parallel ranks share a parameter."""

    axis: int
    parts: int = 1
    """Equal parts along the axis that are shared one by one (gate and up)."""
    is_padded: bool = False
    """Whether zeros are appended until the ranks' shares are equal (the vocabulary)."""


ROWS, COLUMNS, GATE_AND_UP, VOCABULARY = Split(0), Split(1), Split(0, parts=2), Split(0, is_padded=True)


@dataclass(frozen=True)
class Rule:
    """One Megatron parameter and the tensors it is made of; `join` and `split` undo each other exactly."""

    megatron: str
    """Name in the whole GPT model; in a family's file what follows `decoder.layers.N.`, {} for the expert."""
    hf: tuple[str, ...]
    """Names in the checkpoint; in a family's file what follows `model.layers.N.`, {} for the expert."""
    join: Callable[[Sequence[Tensor], ModelShape], Tensor] = lambda parts, shape: parts[0]
    split: Callable[[Tensor, ModelShape], Sequence[Tensor]] = lambda whole, shape: (whole,)
    share: Split | None = None
    """None: every tensor-parallel rank has all of it."""
    place: Literal["embedding", "layer", "output"] = "layer"
    """Pipeline stage that has it: the first, that of its layer, or the last."""
    layer: int | None = None
    expert: int | None = None
    """Number of the routed expert among all; expert-parallel ranks have some of them."""

    @property
    def is_of_each_expert(self) -> bool:
        """Whether it stands for one rule an expert."""
        return "{}" in self.megatron

    def of_expert(self, expert: int) -> Rule:
        """The rule of one expert."""
        names = tuple(name.format(expert) for name in self.hf)
        return replace(self, megatron=self.megatron.format(expert), hf=names, expert=expert)

    def of_layer(self, layer: int) -> Rule:
        """The rule of one layer, with full names."""
        names = tuple(f"model.layers.{layer}.{name}" for name in self.hf)
        return replace(self, megatron=f"decoder.layers.{layer}.{self.megatron}", hf=names, layer=layer)


def join_qkv(parts: Sequence[Tensor], shape: ModelShape) -> Tensor:
    """Query, key and value projections as Megatron has them: for each KV group its queries, its key, its value.

    Weights are [heads * channels, hidden], biases [heads * channels].
    """
    rest = parts[0].shape[1:]
    groups = [part.reshape(shape.num_query_groups, -1, *rest) for part in parts]
    return torch.cat(groups, dim=1).reshape(-1, *rest)


def split_qkv(whole: Tensor, shape: ModelShape) -> list[Tensor]:
    """The inverse of `join_qkv`."""
    rest = whole.shape[1:]
    heads_per_group = shape.num_attention_heads // shape.num_query_groups
    sizes = [heads_per_group * shape.kv_channels, shape.kv_channels, shape.kv_channels]
    parts = whole.reshape(shape.num_query_groups, -1, *rest).split_with_sizes(sizes, dim=1)
    return [part.reshape(-1, *rest) for part in parts]


def join_rows(parts: Sequence[Tensor], shape: ModelShape) -> Tensor:
    """Gate over up projection."""
    return torch.cat(tuple(parts))


def split_rows(whole: Tensor, shape: ModelShape) -> Sequence[Tensor]:
    """The inverse of `join_rows`, without copying."""
    return whole.chunk(2)
