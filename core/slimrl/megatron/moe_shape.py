"""Mixture-of-experts layers, read from a Hugging Face config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class MoeShape:
    """Routed experts, how tokens choose among them, and the shared experts beside them."""

    num_experts: int
    top_k: int
    """Experts of a token."""
    ffn_hidden_size: int
    """Width of one expert."""
    shared_ffn_hidden_size: int | None
    """Width of all shared experts together; None where there are none."""
    is_moe_layer: tuple[bool, ...]
    """Per layer: whether it has experts or a plain feed-forward layer."""
    score_function: Literal["softmax", "sigmoid"]
    normalises_chosen: bool
    """Whether the weights of a token's experts add up to 1 before `scaling_factor`."""
    num_groups: int | None = None
    """Groups of experts, of which a token uses `top_groups`; None: any experts."""
    top_groups: int | None = None
    scaling_factor: float = 1.0
    has_router_bias: bool = False
    """Whether a bias, not trained by gradients, shifts which experts are chosen."""


def qwen3_moe_shape(hf_config: Mapping[str, Any]) -> MoeShape:
    """Experts of Qwen3-MoE; raises KeyError for a size that is not there."""
    every = int(hf_config.get("decoder_sparse_step", 1))
    dense = hf_config.get("mlp_only_layers") or ()
    layers = range(int(hf_config["num_hidden_layers"]))
    return MoeShape(
        # transformers 5 may write its own name for it
        num_experts=int(hf_config["num_experts" if "num_experts" in hf_config else "num_local_experts"]),
        top_k=int(hf_config["num_experts_per_tok"]),
        ffn_hidden_size=int(hf_config["moe_intermediate_size"]),
        shared_ffn_hidden_size=None,
        is_moe_layer=tuple(layer not in dense and (layer + 1) % every == 0 for layer in layers),
        score_function="softmax",
        normalises_chosen=bool(hf_config.get("norm_topk_prob", False)),
    )


def deepseek_v3_moe_shape(hf_config: Mapping[str, Any]) -> MoeShape:
    """Experts of DeepSeek-V3; raises KeyError for a size that is not there."""
    width = int(hf_config["moe_intermediate_size"])
    groups, top_groups = int(hf_config["n_group"] or 1), int(hf_config["topk_group"] or 1)
    first = int(hf_config["first_k_dense_replace"])
    # with one group, or all groups chosen, grouping changes nothing
    is_grouped = top_groups < groups
    return MoeShape(
        num_experts=int(hf_config["n_routed_experts" if "n_routed_experts" in hf_config else "num_local_experts"]),
        top_k=int(hf_config["num_experts_per_tok"]),
        ffn_hidden_size=width,
        shared_ffn_hidden_size=width * int(hf_config["n_shared_experts"]),
        is_moe_layer=tuple(layer >= first for layer in range(int(hf_config["num_hidden_layers"]))),
        score_function="sigmoid",
        normalises_chosen=bool(hf_config["norm_topk_prob"]),
        num_groups=groups if is_grouped else None,
        top_groups=top_groups if is_grouped else None,
        scaling_factor=float(hf_config["routed_scaling_factor"]),
        has_router_bias=True,
    )


def moe_problems(moe: MoeShape) -> list[str]:
    """What Megatron's router cannot do, one sentence each."""
    problems = []
    if moe.score_function == "sigmoid" and moe.normalises_chosen != (moe.top_k > 1):
        problems.append(
            f"norm_topk_prob {moe.normalises_chosen} with num_experts_per_tok {moe.top_k} cannot be trained: Megatron "
            "normalises sigmoid scores of two experts and more, never of one"
        )
    if moe.score_function == "softmax" and moe.normalises_chosen and moe.top_k == 1:
        problems.append("norm_topk_prob with num_experts_per_tok 1 cannot be trained: its router would get no gradient")
    if moe.top_groups is not None and moe.top_k // moe.top_groups != 2:
        problems.append(
            f"num_experts_per_tok {moe.top_k} with topk_group {moe.top_groups} cannot be trained: Megatron ranks "
            "groups by their best num_experts_per_tok / topk_group experts, the model by their best two"
        )
    return problems
