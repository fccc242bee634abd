"""Chains of operations over large tensors: one kernel each on a GPU, torch's operations elsewhere.

None is differentiated by torch; forward and backward passes call them.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from types import ModuleType


@functools.cache
def _gpu_kernels() -> ModuleType | None:
    """Triton comes with torch where torch is built for it; without it torch's operations do the same."""
    if importlib.util.find_spec("triton") is None:
        return None
    from slimrl.megatron import kernels

    return kernels


def _kernels(tensor: Tensor) -> ModuleType | None:
    return _gpu_kernels() if tensor.is_cuda else None


def row_sums(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log of the sum of exponentials, and entropy in nats, of each row of logits [rows, vocabulary] / temperature."""
    if kernels := _kernels(logits):
        sums: tuple[Tensor, Tensor] = kernels.row_sums(logits, temperature)
        return sums
    scaled = logits / temperature
    log_sums = scaled.logsumexp(-1)
    return log_sums, log_sums - (scaled.softmax(-1) * scaled).sum(-1)


def logit_grads(
    logits: Tensor,
    temperature: float,
    log_sums: Tensor,
    entropy: Tensor,
    per_row: Tensor,
    grad_entropy: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """-p * (per_row + grad_entropy * (log p + entropy)) of p = softmax(logits / temperature): [rows, vocabulary]."""
    if kernels := _kernels(logits):
        grads: Tensor = kernels.logit_grads(logits, temperature, log_sums, entropy, per_row, grad_entropy, dtype)
        return grads
    log_p = logits / temperature - log_sums[:, None]
    return (-log_p.exp() * (per_row[:, None] + grad_entropy[:, None] * (log_p + entropy[:, None]))).to(dtype)


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(gate) * up of [..., gate then up]: [..., width]."""
    if kernels := _kernels(gate_and_up):
        product: Tensor = kernels.swiglu(gate_and_up)
        return product
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def swiglu_grad(gate_and_up: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `gate_and_up`, given that of what `swiglu` returns."""
    if kernels := _kernels(gate_and_up):
        grads: Tensor = kernels.swiglu_grad(gate_and_up, grad)
        return grads
    gate, up = gate_and_up.chunk(2, dim=-1)
    both = torch.empty_like(gate_and_up)
    grad_gate, grad_up = both.chunk(2, dim=-1)
    torch.mul(grad, F.silu(gate), out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
    return both


def rotate(x: Tensor, cos: Tensor, sin: Tensor, is_interleaved: bool) -> Tensor:
    """Turn pairs of channels of [tokens, heads, channels] by angles whose cosines are [tokens, 1, pairs], in float32.

    A pair is two neighbours (interleaved) or two channels as far apart as there are pairs; further channels stay.
    """
    if kernels := _kernels(x):
        result: Tensor = kernels.rotate(x, cos, sin, is_interleaved)
        return result
    num_rotary = 2 * cos.size(-1)
    turned = torch.empty_like(x, memory_format=torch.contiguous_format)
    (first, second), (to_first, to_second) = (_pairs(one[..., :num_rotary], is_interleaved) for one in (x, turned))
    first, second = first.float(), second.float()
    to_first.copy_(torch.addcmul(first * cos, second, sin, value=-1))
    to_second.copy_(torch.addcmul(second * cos, first, sin))
    turned[..., num_rotary:] = x[..., num_rotary:]
    return turned


def _pairs(x: Tensor, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    if is_interleaved:
        return x[..., ::2], x[..., 1::2]
    first, second = x.chunk(2, dim=-1)
    return first, second
