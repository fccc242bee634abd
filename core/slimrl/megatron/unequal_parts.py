"""Exchange of parts of unequal length over gloo, which knows only equal ones; NCCL knows both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def gather_parts(part: Tensor, group: Any, sizes: Sequence[int]) -> Tensor:
    """The parts [size, ...] of all processes one after the other; torch's process groups have no common type."""
    padded = part.new_zeros(max(1, *sizes), *part.shape[1:])
    padded[: part.size(0)] = part
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded, group=group)
    return torch.cat([found[:size] for found, size in zip(parts, sizes, strict=True)])


def add_up_part(whole: Tensor, group: Any, sizes: Sequence[int]) -> Tensor:
    """This process's part of the sum over the processes."""
    total = whole.clone(memory_format=torch.contiguous_format)
    if total.numel():
        distributed.all_reduce(total, group=group)
    before = sum(sizes[: group.rank()])
    return total[before : before + sizes[group.rank()]].contiguous()


def let_megatron_exchange_them() -> None:
    """Put them in the place of Megatron's calls of torch, for tokens of experts whose matrices are shared."""
    from megatron.core.tensor_parallel import mappings

    gather, reduce_scatter = mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim

    # Any: Megatron has no types
    def gather_any(part: Tensor, group: Any, sizes: Any = None, use_global_buffer: bool = False) -> Tensor:
        if sizes is None:
            gathered: Tensor = gather(part, group, None, use_global_buffer)
            return gathered
        return gather_parts(part, group, sizes)

    def reduce_scatter_any(whole: Tensor, group: Any, sizes: Any = None, use_global_buffer: bool = False) -> Tensor:
        if sizes is None:
            part: Tensor = reduce_scatter(whole, group, None, use_global_buffer)
            return part
        return add_up_part(whole, group, sizes)

    if gather.__name__ != gather_any.__name__:
        mappings._gather_along_first_dim = gather_any
        mappings._reduce_scatter_along_first_dim = reduce_scatter_any
