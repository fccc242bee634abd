"""Llama, SmolLM2 and Mistral."""

from __future__ import annotations

from slimrl.megatron.convert.rule import Rule, join_qkv, join_rows, split_qkv, split_rows

BEFORE_LAYERS = (Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",)),)

AFTER_LAYERS = (Rule("decoder.final_layernorm.weight", ("model.norm.weight",)),)

OUTPUT = Rule("output_layer.weight", ("lm_head.weight",))

LAYER = (
    Rule("input_layernorm.weight", ("input_layernorm.weight",)),
    Rule(
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        join_qkv,
        split_qkv,
    ),
    Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",)),
    Rule("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",)),
    Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), join_rows, split_rows),
    Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",)),
)
