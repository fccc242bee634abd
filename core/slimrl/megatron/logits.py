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


def gradient_sum(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a weight's gradient is added to, and what a backward pass returns of it.

    Megatron's DDP gives parameters a buffer that gradients are summed in; a gradient of the whole vocabulary is too
    large to be made apart and added.
    """
    buffer: Tensor | None = getattr(weight, "main_grad", None)
    if buffer is not None:
        return buffer, None
    total = torch.zeros_like(weight)
    return total, total


def add_picked(
    grad_hidden: Tensor,
    grad_weight: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    grads: Tensor,
) -> None:
    """Add what logits hidden[row] @ weight[target] give that have gradients of their own: all three are [tokens]."""
    sparse = grads[:, None]
    grad_hidden.index_add_(0, rows, (weight[targets] * sparse).to(grad_hidden.dtype))
    if grad_weight is not None:
        grad_weight.index_add_(0, targets, (hidden[rows] * sparse).to(grad_weight.dtype))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product to a sum, which may be in float32 for factors in bfloat16."""
    if total.dtype is left.dtype:
        total.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.add_(torch.mm(left, right))
