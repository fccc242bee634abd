"""Rotary embedding at the positions of packed tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimrl.megatron.shape import ModelShape


def inverse_frequencies(shape: ModelShape) -> Tensor:
    """Radians per position of each pair of channels, [kv_channels / 2], float32.

    Plain, linearly interpolated, or Llama 3's (frequencies below `low_freq_factor` turns per original context are
    divided by `factor`, those above `high_freq_factor` stay, smooth in between), as transformers computes them.
    """
    channels = torch.arange(0, shape.kv_channels, 2, dtype=torch.int64).to(torch.float32)
    frequencies = 1.0 / (shape.rotary_base ** (channels / shape.kv_channels))
    kind = shape.rope.get("rope_type", "default")
    if kind == "default":
        return frequencies
    factor = float(shape.rope["factor"])
    if kind == "linear":
        return frequencies / factor
    low, high = float(shape.rope["low_freq_factor"]), float(shape.rope["high_freq_factor"])
    context = float(shape.rope["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    scaled = torch.where(wavelengths > context / low, frequencies / factor, frequencies)
    blend = (1 - smooth) * scaled / factor + smooth * scaled
    is_between = ~(wavelengths < context / high) & ~(wavelengths > context / low)
    return torch.where(is_between, blend, scaled)


def rotary_angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Angles that Megatron's rotary embedding takes: [tokens] -> [tokens, 1, 1, kv_channels]."""
    angles = positions.to(torch.float32)[:, None] * frequencies[None, :]
    return torch.cat((angles, angles), dim=-1)[:, None, None, :]
