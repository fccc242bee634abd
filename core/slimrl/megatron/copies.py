"""Weights of other models than the policy, kept in CPU memory and swapped in for a pass: the reference, a teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from slimrl.megatron.shards import Shards

Weights = Mapping[str, Tensor]
"""What this process has of another model where it may differ from the policy, by the whole model's names."""


def without_adapters(shards: Shards) -> Weights:
    """The policy's base alone: what its adapters add is zero."""
    return {
        name: torch.zeros_like(parameter) for name, (_, parameter) in shards.own.items() if ".adapter.lora_B." in name
    }


def copy_of(shards: Shards, folder: Path, *, loaded: Path) -> Weights:
    """The weights of a checkpoint without any adapters; the policy, which has those of `loaded` now, keeps its own."""
    base = without_adapters(shards)
    parameters = {name: parameter for name, (_, parameter) in shards.own.items() if name not in base}
    current = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    if folder != loaded:
        shards.load_from(folder)
        for name, parameter in parameters.items():
            held = parameter.detach().clone()
            parameter.data.copy_(current[name])
            current[name] = held
    return {name: cpu_copy(weights) if weights.is_cuda else weights for name, weights in {**current, **base}.items()}


def cpu_copy(weights: Tensor) -> Tensor:
    """A copy in CPU memory, page-locked where it is to go to a GPU."""
    copy = torch.empty(weights.shape, dtype=weights.dtype, pin_memory=weights.is_cuda)
    return copy.copy_(weights)


@contextlib.contextmanager
def swapped(parameters: Mapping[str, Tensor], weights: Weights) -> Iterator[None]:
    """Give the model other weights, by exchanging pointers, for as long as the block lasts.

    Those that lie elsewhere are copied to the model's device for that time.
    """
    own = {name: parameters[name].data for name in weights}
    try:
        for name, other in weights.items():
            parameters[name].data = other.to(own[name].device, non_blocking=True)
        yield
    finally:
        for name, data in own.items():
            parameters[name].data = data
