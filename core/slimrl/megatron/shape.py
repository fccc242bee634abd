"""The model's shape, read from a Hugging Face config; imports nothing heavy, so the config checker can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from slimrl.config.model import ModelConfig
from slimrl.errors import ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class ModelShape:
    """What the trainer must know to build a decoder; the fields of ModelConfig have its names."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    rotary_base: float
    norm_epsilon: float
    vocab_size: int
    max_positions: int
    has_tied_embeddings: bool
    has_qkv_bias: bool
    has_qk_norm: bool
    rope: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a scaled rotary embedding, as in the HF config (numbers and the rope_type)."""


def model_shape(hf_config: Mapping[str, Any]) -> ModelShape:
    """Read a HF config.json; raises ConfigError naming every property the trainer cannot do."""
    family = str(hf_config.get("model_type"))
    if family not in FAMILIES:
        raise ConfigError(f"model type {family!r} cannot be trained; there are: {', '.join(FAMILIES)}")
    rope = _rope(hf_config)
    problems = _unsupported(family, hf_config, rope)
    if problems:
        raise ConfigError(problems)
    try:
        heads = int(hf_config["num_attention_heads"])
        return ModelShape(
            family=family,
            num_layers=int(hf_config["num_hidden_layers"]),
            hidden_size=int(hf_config["hidden_size"]),
            ffn_hidden_size=int(hf_config["intermediate_size"]),
            num_attention_heads=heads,
            num_query_groups=int(hf_config.get("num_key_value_heads") or heads),
            kv_channels=int(hf_config.get("head_dim") or hf_config["hidden_size"] // heads),
            rotary_base=float(rope.get("rope_theta", 10000.0)),
            norm_epsilon=float(hf_config.get("rms_norm_eps", 1e-6)),
            vocab_size=int(hf_config["vocab_size"]),
            max_positions=int(hf_config.get("max_position_embeddings", 2048)),
            has_tied_embeddings=bool(hf_config.get("tie_word_embeddings", False)),
            has_qkv_bias=family == "qwen2",
            has_qk_norm=family == "qwen3",
            rope=rope,
        )
    except KeyError as e:
        raise ConfigError(f"the checkpoint's config.json lacks {e.args[0]!r}; it is not a whole HF config") from e


def check_model_flags(model: ModelConfig, hf_config: Mapping[str, Any]) -> list[str]:
    """What the given model flags say differently from the checkpoint, one sentence each; empty if all agree."""
    try:
        shape = model_shape(hf_config)
    except ConfigError as e:
        return list(e.problems)
    problems = []
    for flag in fields(model):
        given, actual = getattr(model, flag.name), getattr(shape, flag.name)
        if given is not None and not _agree(given, actual):
            name = flag.name.replace("_", "-")
            problems.append(f"--{name} {given} but the checkpoint's is {actual}; leave the flag out to use it")
    return problems


def _agree(given: float, actual: float) -> bool:
    # GGUF and bf16 configs carry 9.999999747378752e-06 for 1e-5
    return abs(given - actual) <= 1e-6 * abs(actual)


def _rope(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters of transformers 5 (rope_parameters) or 4 (rope_theta and rope_scaling)."""
    rope = dict(hf_config.get("rope_parameters") or hf_config.get("rope_scaling") or {})
    if "rope_theta" not in rope and "rope_theta" in hf_config:
        rope["rope_theta"] = hf_config["rope_theta"]
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    return rope


def _unsupported(family: str, hf_config: Mapping[str, Any], rope: Mapping[str, Any]) -> list[str]:
    problems = []
    if rope["rope_type"] not in ROPE_TYPES:
        problems.append(f"rope type {rope['rope_type']!r} cannot be trained; there are: {', '.join(ROPE_TYPES)}")
    if hf_config.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act {hf_config['hidden_act']!r} cannot be trained; only 'silu'")
    # Qwen2's configs do not say that its projections have biases.
    for key in ("attention_bias", "mlp_bias"):
        if hf_config.get(key):
            problems.append(f"{key} of a {family} model cannot be trained; only without biases")
    has_window = hf_config.get("use_sliding_window", family == "mistral")
    window = hf_config.get("sliding_window")
    if has_window and window and window < hf_config.get("max_position_embeddings", 0):
        problems.append(f"sliding_window {window} cannot be trained; only full attention")
    return problems
