"""Llama, SmolLM2 and Mistral; and what every family has of them."""

from __future__ import annotations

from slimrl.megatron.convert.rule import (
    COLUMNS,
    GATE_AND_UP,
    ROWS,
    VOCABULARY,
    Rule,
    join_qkv,
    join_rows,
    split_qkv,
    split_rows,
)

EMBEDDING = Rule(
    "embedding.word_embeddings.weight", ("model.embed_tokens.weight",), share=VOCABULARY, place="embedding"
)

FINAL_NORM = Rule("decoder.final_layernorm.weight", ("model.norm.weight",), place="output")

OUTPUT = Rule("output_layer.weight", ("lm_head.weight",), share=VOCABULARY, place="output")

NORMS = (
    Rule("input_layernorm.weight", ("input_layernorm.weight",)),
    Rule("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",)),
)

ATTENTION = (
    Rule(
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        join_qkv,
        split_qkv,
        ROWS,
    ),
    Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), share=COLUMNS),
)


def gated(megatron: str, hf: str) -> tuple[Rule, Rule]:
    """The rules of one gated feed-forward layer with gate, up and down projections."""
    return (
        Rule(
            f"{megatron}.linear_fc1.weight",
            (f"{hf}.gate_proj.weight", f"{hf}.up_proj.weight"),
            join_rows,
            split_rows,
            GATE_AND_UP,
        ),
        Rule(f"{megatron}.linear_fc2.weight", (f"{hf}.down_proj.weight",), share=COLUMNS),
    )


FEED_FORWARD = gated("mlp", "mlp")

LAYER = (*NORMS, *ATTENTION, *FEED_FORWARD)
