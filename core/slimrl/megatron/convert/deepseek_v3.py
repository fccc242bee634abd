"""DeepSeek-V3: latent attention; feed-forward layers first, then routed and shared experts."""

from __future__ import annotations

from slimrl.megatron.convert import llama, qwen3_moe
from slimrl.megatron.convert.rule import COLUMNS, ROWS, Rule

LOW_RANK_QUERY = (
    Rule("self_attention.linear_q_down_proj.weight", ("self_attn.q_a_proj.weight",), share=ROWS),
    Rule("self_attention.q_layernorm.weight", ("self_attn.q_a_layernorm.weight",)),
    Rule("self_attention.linear_q_up_proj.weight", ("self_attn.q_b_proj.weight",), share=ROWS),
)

FULL_QUERY = (Rule("self_attention.linear_q_proj.weight", ("self_attn.q_proj.weight",), share=ROWS),)

KEY_AND_VALUE = (
    Rule("self_attention.linear_kv_down_proj.weight", ("self_attn.kv_a_proj_with_mqa.weight",), share=ROWS),
    Rule("self_attention.kv_layernorm.weight", ("self_attn.kv_a_layernorm.weight",)),
    Rule("self_attention.linear_kv_up_proj.weight", ("self_attn.kv_b_proj.weight",), share=ROWS),
    Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), share=COLUMNS),
)

EXPERTS = (
    qwen3_moe.ROUTER,
    Rule("mlp.router.expert_bias", ("mlp.gate.e_score_correction_bias",)),
    *qwen3_moe.EXPERT,
    *llama.gated("mlp.shared_experts", "mlp.shared_experts"),
)


def layer_rules(*, has_low_rank_query: bool, is_moe: bool) -> tuple[Rule, ...]:
    """The rules of one layer."""
    query = LOW_RANK_QUERY if has_low_rank_query else FULL_QUERY
    return (*llama.NORMS, *query, *KEY_AND_VALUE, *(EXPERTS if is_moe else llama.FEED_FORWARD))
