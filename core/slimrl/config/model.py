"""MODEL_ARGS: the model's shape, read from the HF config; a flag given here is checked against it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Model shape. Everything comes from the HF checkpoint's config; what is given here must agree with it."""

    num_layers: int | None = None
    """Transformer layers."""
    hidden_size: int | None = None
    """Width of the residual stream."""
    ffn_hidden_size: int | None = None
    """Width of the feed-forward layer."""
    num_attention_heads: int | None = None
    """Query heads."""
    num_query_groups: int | None = None
    """Key and value heads."""
    kv_channels: int | None = None
    """Width of one head."""
    rotary_base: float | None = None
    """Base of the rotary embedding (rope_theta)."""
    norm_epsilon: float | None = None
    """Epsilon of the RMS norms."""
    vocab_size: int | None = None
    """Rows of the embedding."""
