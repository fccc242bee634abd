"""Layers that keep less for the backward pass than torch's generic ones, and Megatron's layer spec with them."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor
from torch.autograd.function import FunctionCtx

from slimrl.megatron.attention import PackedAttention


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(torch.linalg.vecdot(wide, wide).div_(x.size(-1)).add_(epsilon)).unsqueeze_(-1)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float().mul(scale)
        grad = grads[0].float()
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        inner = grad * weight
        along = torch.linalg.vecdot(inner, normed).div_(x.size(-1)).unsqueeze_(-1)
        grad_x = inner.sub_(normed.mul_(along)).mul_(scale)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


class RmsNorm(torch.nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__()
        self.epsilon = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Megatron sums its gradient over the tensor-parallel ranks then
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Any shape ending in hidden_size; the same shape."""
        normed: Tensor = _RmsNorm.apply(x, self.weight, self.epsilon)  # type: ignore[no-untyped-call]
        return normed


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate_and_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up)
        gate, up = gate_and_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_and_up,) = ctx.saved_tensors
        gate, up = gate_and_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_and_up)
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.mul(grads[0], torch.nn.functional.silu(gate), out=grad_up)
        inner = grads[0] * up
        torch.ops.aten.silu_backward.grad_input(inner, gate, grad_input=grad_gate)
        return grad


class SwiGlu(torch.nn.Module):
    """silu(gate) * up of [..., gate then up] (Shazeer 2020), in the place of Megatron's fused activations."""

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, gate_and_up: Tensor) -> Tensor:
        """[..., 2 * width] to [..., width]."""
        product: Tensor = _SwiGlu.apply(gate_and_up)  # type: ignore[no-untyped-call]
        return product


def layer_spec(has_qk_norm: bool) -> ModuleSpec:
    """One decoder layer out of Megatron's own parallel linear layers and the modules above."""
    spec = get_gpt_layer_local_spec(qk_layernorm=has_qk_norm, normalization="RMSNorm")
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RmsNorm
    layer.mlp.submodules.activation_func = SwiGlu
    attention = layer.self_attention.submodules
    attention.core_attention = PackedAttention
    if has_qk_norm:
        attention.q_layernorm = attention.k_layernorm = RmsNorm
    return spec
