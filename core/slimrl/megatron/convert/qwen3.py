"""Qwen3: Llama with norms on every head's query and key."""

from __future__ import annotations

from slimrl.megatron.convert import llama
from slimrl.megatron.convert.rule import Rule

HEAD_NORMS = (
    Rule("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",)),
    Rule("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",)),
)

LAYER = (*llama.LAYER, *HEAD_NORMS)
