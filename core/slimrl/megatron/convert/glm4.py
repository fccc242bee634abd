"""GLM4 (dense): Llama with four norms a layer and gate and up projection in one tensor."""

from __future__ import annotations

from slimrl.megatron.convert import llama, qwen2
from slimrl.megatron.convert.rule import COLUMNS, GATE_AND_UP, Rule

LAYER = (
    *llama.NORMS,
    *llama.ATTENTION,
    Rule("self_attention.linear_proj.norm.weight", ("post_self_attn_layernorm.weight",)),
    Rule("mlp.linear_fc1.weight", ("mlp.gate_up_proj.weight",), share=GATE_AND_UP),
    Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), share=COLUMNS),
    Rule("mlp.linear_fc2.norm.weight", ("post_mlp_layernorm.weight",)),
)

BIASED_LAYER = (*LAYER, qwen2.BIAS)
