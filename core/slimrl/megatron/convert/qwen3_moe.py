"""Qwen3-MoE: Qwen3 with experts in most layers; the others are Qwen3's."""

from __future__ import annotations

from slimrl.megatron.convert import llama, qwen3
from slimrl.megatron.convert.rule import Rule

ROUTER = Rule("mlp.router.weight", ("mlp.gate.weight",))

EXPERT = llama.gated("mlp.experts.local_experts.{}", "mlp.experts.{}")

LAYER = (*llama.NORMS, *llama.ATTENTION, *qwen3.HEAD_NORMS, ROUTER, *EXPERT)
