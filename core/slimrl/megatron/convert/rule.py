"""How one Megatron parameter corresponds to Hugging Face tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimrl.megatron.shape import ModelShape


@dataclass(frozen=True)
class Rule:
    """One Megatron parameter and the tensors it is made of; `join` and `split` undo each other exactly."""

    megatron: str
    """Name in the GPT model; of a layer's parameters, what follows `decoder.layers.N.`."""
    hf: tuple[str, ...]
    """Names in the checkpoint; of a layer's tensors, what follows `model.layers.N.`."""
    join: Callable[[Sequence[Tensor], ModelShape], Tensor] = lambda parts, shape: parts[0]
    split: Callable[[Tensor, ModelShape], Sequence[Tensor]] = lambda whole, shape: (whole,)


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
