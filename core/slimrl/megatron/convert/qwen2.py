"""Qwen2 and Qwen2.5: Llama with biases on query, key and value."""

from __future__ import annotations

from slimrl.megatron.convert import llama
from slimrl.megatron.convert.rule import ROWS, Rule, join_qkv, split_qkv

BIAS = Rule(
    "self_attention.linear_qkv.bias",
    ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    join_qkv,
    split_qkv,
    ROWS,
)

LAYER = (*llama.LAYER, BIAS)
