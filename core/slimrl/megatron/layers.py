"""Layers that keep less for the backward pass than torch's generic ones, and Megatron's layer spec with them."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor
from torch.autograd.function import FunctionCtx

from slimrl.megatron.attention import PackedAttention
from slimrl.megatron.compat import submodules_of
from slimrl.megatron.fused import swiglu, swiglu_grad
from slimrl.megatron.latent_attention import PackedLatentAttention
from slimrl.megatron.norm import RmsNorm


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate_and_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up)
        return swiglu(gate_and_up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_and_up,) = ctx.saved_tensors
        return swiglu_grad(gate_and_up, grads[0])


class SwiGlu(MegatronModule):  # type: ignore[misc]  # Megatron has no types
    """silu(gate) * up of [..., gate then up] (Shazeer 2020), in the place of Megatron's fused activations."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)

    def forward(self, gate_and_up: Tensor) -> Tensor:
        """[..., 2 * width] to [..., width]."""
        product: Tensor = _SwiGlu.apply(gate_and_up)  # type: ignore[no-untyped-call]
        return product


class NormedRowParallelLinear(RowParallelLinear):  # type: ignore[misc]  # Megatron has no types
    """Megatron's row-parallel linear layer with a norm after it: GLM4's norms before each addition."""

    adds_adapter = True

    # Any: what Megatron builds every linear layer with
    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.norm = RmsNorm(config, output_size, eps=config.layernorm_epsilon)
        self.adapter: torch.nn.Module | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """[..., input_size] to [..., output_size]."""
        output, _ = super().forward(x)
        if self.adapter is not None:
            output = output + self.adapter(x)
        return self.norm(output), None


def block_spec(config: Any, *, has_post_norms: bool, chunk: int | None = None) -> TransformerBlockSubmodules:
    """The decoder layers of this pipeline stage, or of one chunk of it: Megatron's own, with the modules above."""
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization="RMSNorm", vp_stage=chunk)
    block.layer_norm = RmsNorm
    for layer in block.layer_specs:
        _use_own_modules(layer.submodules, config, has_post_norms)
    return block


def _use_own_modules(layer: Any, config: Any, has_post_norms: bool) -> None:
    layer.input_layernorm = layer.pre_mlp_layernorm = RmsNorm
    attention, feed_forward = layer.self_attention.submodules, submodules_of(layer.mlp)
    attention.core_attention = PackedAttention
    if config.multi_latent_attention:
        layer.self_attention.module = PackedLatentAttention
    elif config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RmsNorm
    if hasattr(feed_forward, "experts"):
        # Megatron's local layers would name a distributed checkpoint's tensor otherwise than its others do
        layer.sharded_state_dict_keys_map.pop("pre_mlp_layernorm.", None)
        submodules_of(feed_forward.experts).activation_func = SwiGlu
        submodules_of(feed_forward.shared_experts).activation_func = SwiGlu
    else:
        feed_forward.activation_func = SwiGlu
    if has_post_norms:
        attention.linear_proj = feed_forward.linear_fc2 = NormedRowParallelLinear
