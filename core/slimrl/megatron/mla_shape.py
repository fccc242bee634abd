"""Multi-head latent attention, read from a Hugging Face config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MlaShape:
    """Widths of latent attention (DeepSeek-AI 2024): keys and values are made from one small vector a token."""

    q_lora_rank: int | None
    """Width that queries are made from; None: from the hidden state itself."""
    kv_lora_rank: int
    """Width that keys and values are made from."""
    nope_channels: int
    """Channels of a query or key head without position."""
    rope_channels: int
    """Channels of a query or key head with position; one key of them serves all heads."""
    value_channels: int
    rope_factor: float = 1.0
    """Stretching of positions by yarn, which the softmax scale follows."""
    mscale_all_dim: float = 0.0


def mla_shape(hf_config: Mapping[str, Any], rope: Mapping[str, Any]) -> MlaShape:
    """Latent attention of DeepSeek-V3; raises KeyError for a size that is not there."""
    q_rank = hf_config["q_lora_rank"]
    is_yarn = rope["rope_type"] == "yarn"
    return MlaShape(
        q_lora_rank=None if q_rank is None else int(q_rank),
        kv_lora_rank=int(hf_config["kv_lora_rank"]),
        nope_channels=int(hf_config["qk_nope_head_dim"]),
        rope_channels=int(hf_config["qk_rope_head_dim"]),
        value_channels=int(hf_config["v_head_dim"]),
        rope_factor=float(rope["factor"]) if is_yarn else 1.0,
        mscale_all_dim=float(rope.get("mscale_all_dim") or 0.0) if is_yarn else 0.0,
    )


def mla_problems(hf_config: Mapping[str, Any], rope: Mapping[str, Any]) -> list[str]:
    """What the trainer's latent attention cannot do, one sentence each."""
    problems = []
    if not hf_config.get("rope_interleave", True):
        problems.append("rope_interleave false cannot be trained; only interleaved rotary channels")
    if rope["rope_type"] == "yarn" and not math.isclose(_attention_factor(rope), 1.0, rel_tol=1e-6):
        problems.append(
            f"yarn's attention factor {_attention_factor(rope):.4g} cannot be trained; only 1 (mscale equal to "
            "mscale_all_dim)"
        )
    return problems


def _attention_factor(rope: Mapping[str, Any]) -> float:
    """What yarn multiplies rotated channels by, as transformers reads it."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor, mscale, all_dim = float(rope["factor"]), rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, float(mscale)) / _mscale(factor, float(all_dim))
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
