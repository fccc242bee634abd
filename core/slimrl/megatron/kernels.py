"""Triton kernels for what torch would do in several passes over a large tensor; imported only where there is a GPU.

torch.compile makes such kernels, too; of the sums over a row it made one that took at least nine times as long (H100).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROW_BLOCK = 8192
"""Logits that a program reads at a time."""
BLOCK = 2048
"""Elements of a program elsewhere."""


def row_sums(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log of the sum of exponentials, and entropy, of each row of logits / temperature, read once."""
    num_rows, vocabulary = logits.shape
    log_sums, entropies = (logits.new_empty(num_rows, dtype=torch.float32) for _ in range(2))
    block = min(ROW_BLOCK, triton.next_power_of_2(vocabulary))
    _row_sums[(num_rows,)](
        logits, log_sums, entropies, logits.stride(0), vocabulary, 1 / temperature, BLOCK=block, num_warps=8
    )
    return log_sums, entropies


def logit_grads(
    logits: Tensor,
    temperature: float,
    log_sums: Tensor,
    entropy: Tensor,
    per_row: Tensor,
    grad_entropy: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """See `fused.logit_grads`."""
    num_rows, vocabulary = logits.shape
    grads = torch.empty((num_rows, vocabulary), dtype=dtype, device=logits.device)
    _logit_grads[(num_rows, triton.cdiv(vocabulary, BLOCK))](
        logits,
        grads,
        log_sums,
        entropy,
        per_row,
        grad_entropy,
        logits.stride(0),
        vocabulary,
        1 / temperature,
        BLOCK=BLOCK,
    )
    return grads


def swiglu(gate_and_up: Tensor) -> Tensor:
    """See `fused.swiglu`."""
    rows = gate_and_up.contiguous().view(-1, gate_and_up.size(-1))
    width = rows.size(1) // 2
    product = rows.new_empty(rows.size(0), width)
    if rows.numel():
        _swiglu[(rows.size(0), triton.cdiv(width, BLOCK))](rows, product, width, BLOCK=BLOCK)
    return product.view(*gate_and_up.shape[:-1], width)


def swiglu_grad(gate_and_up: Tensor, grad: Tensor) -> Tensor:
    """See `fused.swiglu_grad`."""
    rows = gate_and_up.contiguous().view(-1, gate_and_up.size(-1))
    width = rows.size(1) // 2
    grads = torch.empty_like(rows)
    if rows.numel():
        _swiglu_grad[(rows.size(0), triton.cdiv(width, BLOCK))](rows, grad.contiguous(), grads, width, BLOCK=BLOCK)
    return grads.view(gate_and_up.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, is_interleaved: bool) -> Tensor:
    """See `fused.rotate`."""
    num_tokens, num_heads, channels = x.shape
    half = cos.size(-1)
    x = x if x.stride(2) == 1 else x.contiguous()
    turned = x.new_empty(x.shape)
    if x.numel():
        _rotate[(num_tokens,)](
            x,
            turned,
            cos.contiguous(),
            sin.contiguous(),
            x.stride(0),
            x.stride(1),
            num_heads,
            channels,
            half,
            IS_INTERLEAVED=is_interleaved,
            HAS_REST=2 * half < channels,
            HEADS=triton.next_power_of_2(num_heads),
            HALF=triton.next_power_of_2(half),
            CHANNELS=triton.next_power_of_2(channels),
        )
    return turned


# parameters are pointers and numbers; Triton takes no other annotations than these
@triton.jit
def _row_sums(logits, log_sums, entropies, stride, vocabulary, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    largest = tl.full((), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    # sum of (x - largest) exp(x - largest)
    moment = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        inside = first + places < vocabulary
        x = tl.load(logits + row * stride + first + places, mask=inside, other=-1e30).to(tl.float32) * scale
        larger = tl.maximum(largest, tl.max(x, 0))
        shift = largest - larger
        factor = tl.exp(shift)
        centred = tl.where(inside, x - larger, 0.0)
        exps = tl.where(inside, tl.exp(centred), 0.0)
        moment = factor * (moment + shift * total) + centred * exps
        total = factor * total + exps
        largest = larger
    whole = tl.sum(total, 0)
    log_whole = tl.log(whole)
    tl.store(log_sums + row, largest + log_whole)
    tl.store(entropies + row, log_whole - tl.sum(moment, 0) / whole)


@triton.jit
def _logit_grads(
    logits,
    grads,
    log_sums,
    entropies,
    per_row,
    grad_entropies,
    stride,
    vocabulary,
    scale,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < vocabulary
    x = tl.load(logits + row * stride + places, mask=inside, other=0.0).to(tl.float32)
    log_p = x * scale - tl.load(log_sums + row)
    factor = tl.load(per_row + row) + tl.load(grad_entropies + row) * (log_p + tl.load(entropies + row))
    grad = -tl.exp(log_p) * factor
    tl.store(grads + row * vocabulary + places, grad.to(grads.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu(gate_and_up, product, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < width
    gate = tl.load(gate_and_up + 2 * row * width + places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_and_up + (2 * row + 1) * width + places, mask=inside, other=0.0).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    tl.store(product + row * width + places, result.to(product.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_grad(gate_and_up, grad, grads, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < width
    first, second = 2 * row * width + places, (2 * row + 1) * width + places
    gate = tl.load(gate_and_up + first, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_and_up + second, mask=inside, other=0.0).to(tl.float32)
    upstream = tl.load(grad + row * width + places, mask=inside, other=0.0).to(tl.float32)
    opened = tl.sigmoid(gate)
    grad_gate = upstream * up * opened * (1 + gate * (1 - opened))
    kind = grads.dtype.element_ty
    tl.store(grads + first, grad_gate.to(kind), mask=inside)
    tl.store(grads + second, (upstream * gate * opened).to(kind), mask=inside)


@triton.jit
def _rotate(
    x,
    turned,
    cos,
    sin,
    token_stride,
    head_stride,
    num_heads,
    channels,
    half,
    IS_INTERLEAVED: tl.constexpr,
    HAS_REST: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, HEADS)[:, None]
    pairs = tl.arange(0, HALF)[None, :]
    inside = (heads < num_heads) & (pairs < half)
    if IS_INTERLEAVED:
        first, second = 2 * pairs, 2 * pairs + 1
    else:
        first, second = pairs, half + pairs
    source = x + token * token_stride + heads * head_stride
    target = turned + (token * num_heads + heads) * channels
    c = tl.load(cos + token * half + pairs, mask=pairs < half, other=0.0)
    s = tl.load(sin + token * half + pairs, mask=pairs < half, other=0.0)
    one = tl.load(source + first, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(source + second, mask=inside, other=0.0).to(tl.float32)
    kind = turned.dtype.element_ty
    tl.store(target + first, (one * c - other * s).to(kind), mask=inside)
    tl.store(target + second, (other * c + one * s).to(kind), mask=inside)
    if HAS_REST:
        rest = tl.arange(0, CHANNELS)[None, :]
        is_rest = (heads < num_heads) & (rest >= 2 * half) & (rest < channels)
        tl.store(target + rest, tl.load(source + rest, mask=is_rest, other=0.0), mask=is_rest)
