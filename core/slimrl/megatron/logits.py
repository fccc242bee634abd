"""Products with the output layer: in pieces that fit, summed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**30}
"""Logits computed at once: what a cache holds, or what keeps a GPU busy."""


def chunks(num_rows: int, weight: Tensor) -> list[tuple[int, int]]:
    """Bounds of rows whose logits are computed at once, for an output layer [vocabulary, hidden]."""
    size = max(1, CHUNK_BYTES[weight.device.type] // (4 * weight.size(0)))
    return [(low, min(low + size, num_rows)) for low in range(0, num_rows, size)]


def product(left: Tensor, right: Tensor) -> Tensor:
    """In float32, which a GPU gives of bfloat16 without rounding in between."""
    if left.is_cuda and left.dtype is not torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right).float()


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product to a sum, which may be in float32 for factors in bfloat16."""
    if total.dtype is left.dtype:
        total.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.add_(torch.mm(left, right))
