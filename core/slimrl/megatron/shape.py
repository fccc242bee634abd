"""The model's shape, read from a Hugging Face config; imports nothing heavy, so the config checker can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from slimrl.config.model import ModelConfig
from slimrl.errors import ConfigError
from slimrl.megatron.mla_shape import MlaShape, mla_problems, mla_shape
from slimrl.megatron.moe_shape import MoeShape, deepseek_v3_moe_shape, moe_problems, qwen3_moe_shape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "glm4", "deepseek_v3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


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
    rotary_channels: int
    """Channels of a head that are rotated, the first ones."""
    has_interleaved_rotary: bool = False
    """Whether neighbouring channels are rotated together, rather than those of the two halves."""
    has_post_norms: bool = False
    """Whether what attention and feed-forward layer give is normalised before it is added."""
    moe: MoeShape | None = None
    mla: MlaShape | None = None
    rope: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a scaled rotary embedding, as in the HF config (numbers and the rope_type)."""
    has_value_head: bool = False
    """Whether it ends in one number a token, as a critic does; such a shape has tied embeddings: no output layer."""


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
        moe = _moe(family, hf_config)
        mla = mla_shape(hf_config, rope) if family == "deepseek_v3" else None
        if moe is not None and (problems := moe_problems(moe)):
            raise ConfigError(problems)
        if mla is not None:
            groups, channels, rotary = heads, mla.nope_channels + mla.rope_channels, mla.rope_channels
        else:
            groups = int(hf_config.get("num_key_value_heads") or heads)
            channels = int(hf_config.get("head_dim") or hf_config["hidden_size"] // heads)
            rotary = int(channels * _rotary_share(family, hf_config, rope))
        return ModelShape(
            family=family,
            num_layers=int(hf_config["num_hidden_layers"]),
            hidden_size=int(hf_config["hidden_size"]),
            ffn_hidden_size=int(hf_config["intermediate_size"]),
            num_attention_heads=heads,
            num_query_groups=groups,
            kv_channels=channels,
            rotary_base=float(rope.get("rope_theta", 10000.0)),
            norm_epsilon=float(hf_config.get("rms_norm_eps", 1e-6)),
            vocab_size=int(hf_config["vocab_size"]),
            max_positions=int(hf_config.get("max_position_embeddings", 2048)),
            has_tied_embeddings=bool(hf_config.get("tie_word_embeddings", False)),
            has_qkv_bias=family == "qwen2" or (family == "glm4" and bool(hf_config.get("attention_bias", True))),
            has_qk_norm=family in ("qwen3", "qwen3_moe"),
            rotary_channels=rotary,
            has_interleaved_rotary=family == "glm4",
            has_post_norms=family == "glm4",
            moe=moe,
            mla=mla,
            rope=rope,
        )
    except KeyError as e:
        raise ConfigError(f"the checkpoint's config.json lacks {e.args[0]!r}; it is not a whole HF config") from e
    except (TypeError, ValueError, ZeroDivisionError) as e:
        raise ConfigError(f"the checkpoint's config.json has a size that is none: {e}") from e


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


def _rotary_share(family: str, hf_config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    """Part of a head's channels that is rotated."""
    if family != "glm4":
        return 1.0
    return float(rope.get("partial_rotary_factor") or hf_config.get("partial_rotary_factor") or 0.5)


def _moe(family: str, hf_config: Mapping[str, Any]) -> MoeShape | None:
    if family == "qwen3_moe":
        return qwen3_moe_shape(hf_config)
    return deepseek_v3_moe_shape(hf_config) if family == "deepseek_v3" else None


def _unsupported(family: str, hf_config: Mapping[str, Any], rope: Mapping[str, Any]) -> list[str]:
    problems = []
    # yarn also scales the softmax, which only latent attention does here
    types = ROPE_TYPES if family == "deepseek_v3" else ROPE_TYPES[:-1]
    if rope["rope_type"] not in types:
        problems.append(f"rope type {rope['rope_type']!r} cannot be trained; there are: {', '.join(types)}")
    elif family == "deepseek_v3":
        problems += mla_problems(hf_config, rope)
    if hf_config.get("quantization_config"):
        problems.append("a quantised checkpoint cannot be trained; give one in bfloat16 or float32")
    if hf_config.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act {hf_config['hidden_act']!r} cannot be trained; only 'silu'")
    # Qwen2's configs do not say that its projections have biases.
    for key in ("attention_bias", "mlp_bias"):
        if hf_config.get(key) and (family, key) != ("glm4", "attention_bias"):
            problems.append(f"{key} of a {family} model cannot be trained; only without biases")
    has_window = hf_config.get("use_sliding_window", family == "mistral")
    window = hf_config.get("sliding_window")
    if has_window and window and window < hf_config.get("max_position_embeddings", 0):
        problems.append(f"sliding_window {window} cannot be trained; only full attention")
    return problems
