"""The shape of a Llama-like model, read from config.json: one record with a switch for each family's habit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slimrl.errors import UsageError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class ModelShape:
    """What the forward pass must know of a model besides its weights."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    norm_epsilon: float
    max_length: int
    """Tokens of prompt and response together."""
    tied_head: bool
    qkv_bias: bool
    output_bias: bool
    ffn_bias: bool
    head_norm: bool
    """Qwen3 normalises each query and key head."""
    windows: tuple[int | None, ...]
    """Per layer: how many of the latest tokens, itself included, a token sees; None is all."""
    rope: Mapping[str, Any]
    """rope_theta, rope_type and what that type needs, as config.json names them."""


def read_config(model_path: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder; raises UsageError when there is none or it is not JSON."""
    path = model_path / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{model_path} has no config.json; give the folder of a Hugging Face checkpoint") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds a {type(config).__name__}, not an object")
    return config


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape, or None when the model is not one that this forward computes exactly."""
    family = config.get("model_type")
    rope = _rope(config)
    if (
        family not in FAMILIES
        or config.get("hidden_act", "silu") != "silu"
        or rope["rope_type"] not in ("default", "linear", "llama3")
        or config.get("quantization_config")
    ):
        return None
    num_heads = config["num_attention_heads"]
    bias = bool(config.get("attention_bias", False))
    return ModelShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
        ffn_size=config["intermediate_size"],
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        max_length=config.get("max_position_embeddings", 2048),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or (family in ("llama", "qwen3") and bias),
        output_bias=family in ("llama", "qwen3") and bias,
        ffn_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        head_norm=family == "qwen3",
        windows=_windows(config, family),
        rope=rope,
    )


def inverse_frequencies(shape: ModelShape) -> torch.Tensor:
    """Rotary frequencies [head_dim / 2] in float32; formulas of transformers' modeling_rope_utils."""
    rope = shape.rope
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    frequencies: torch.Tensor = 1.0 / (rope["rope_theta"] ** exponents)
    if rope["rope_type"] == "linear":
        frequencies = frequencies / rope["factor"]
    elif rope["rope_type"] == "llama3":
        factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
        original_length = rope["original_max_position_embeddings"]
        wavelengths = 2 * math.pi / frequencies
        slowed = torch.where(wavelengths > original_length / low, frequencies / factor, frequencies)
        blend = (original_length / wavelengths - low) / (high - low)
        blended = (1 - blend) * slowed / factor + blend * slowed
        is_medium = ~(wavelengths < original_length / high) & ~(wavelengths > original_length / low)
        frequencies = torch.where(is_medium, blended, slowed)
    return frequencies


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    # transformers 5 writes rope_parameters; 4 wrote rope_theta and, when scaled, rope_scaling
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    return rope


def _windows(config: Mapping[str, Any], family: str) -> tuple[int | None, ...]:
    num_layers: int = config["num_hidden_layers"]
    window: int | None = config.get("sliding_window")
    if family == "mistral":
        return (window,) * num_layers
    if family == "llama" or not config.get("use_sliding_window", False) or window is None:
        return (None,) * num_layers
    first = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)
    ]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
