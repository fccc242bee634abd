"""Multi-head latent attention over packed tokens."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import (
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch import Tensor

from slimrl.megatron.norm import RmsNorm

LATENT_EPSILON = 1e-6
"""Of the norms of latent vectors; DeepSeek's is fixed, whatever rms_norm_eps says."""


class PackedLatentAttention(MLASelfAttention):  # type: ignore[misc]  # Megatron has no types
    """Megatron's latent attention at the angles it is given, where Megatron counts positions from 0.

    The config says that there are no norms, whose places differ between Megatron's versions; they are put here.
    """

    # Any: what Megatron builds every attention layer with
    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.rotary_pos_emb = _GivenAngles()
        self.kv_layernorm = RmsNorm(config, config.kv_lora_rank, eps=LATENT_EPSILON)
        if config.q_lora_rank is not None:
            self.q_layernorm = RmsNorm(config, config.q_lora_rank, eps=LATENT_EPSILON)
        if config.sequence_parallel:
            self.linear_kv_down_proj.register_forward_hook(_by_tokens)

    def forward(self, hidden_states: Tensor, *args: Any, rotary_pos_emb: Tensor, **kwargs: Any) -> Any:
        """As Megatron's self-attention; `rotary_pos_emb` as `rotary_angles` gives it."""
        self.rotary_pos_emb.angles = rotary_pos_emb
        return super().forward(hidden_states, *args, rotary_pos_emb=None, **kwargs)


def _by_tokens(layer: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, None]) -> tuple[Tensor, None]:
    """All channels of some tokens from some channels of all tokens, of which each tensor-parallel process has others.

    Megatron would do so for the latent vector alone. To the key with position, which serves the heads of every process,
    it would then give each process only the gradient of its own heads; for one of some tokens it adds them up.
    """
    return scatter_to_sequence_parallel_region(gather_from_tensor_model_parallel_region(output[0])), None


class _GivenAngles(torch.nn.Module):
    """Stands where Megatron computes the angles of a sequence."""

    angles: Tensor

    def get_rotary_seq_len(self, *args: Any) -> int:
        return self.angles.size(0)

    def forward(self, length: int, **kwargs: Any) -> Tensor:
        return self.angles
