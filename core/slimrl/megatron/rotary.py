"""Rotary embedding at the positions of packed tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimrl.megatron.fused import rotate
from slimrl.megatron.shape import ModelShape


@dataclass(frozen=True)
class Rotation:
    """How each token's queries and keys are turned."""

    cos: Tensor
    """[tokens, 1, rotary_channels / 2], float32, as is `sin`."""
    sin: Tensor
    is_interleaved: bool
    """Whether a pair is two neighbours, not two channels half of them apart."""

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, heads, channels]; channels behind the rotary ones stay. Differentiable in x."""
        turned: Tensor = _Rotate.apply(x, self.cos, self.sin, self.is_interleaved)  # type: ignore[no-untyped-call]
        return turned


def rotation(positions: Tensor, frequencies: Tensor, *, is_interleaved: bool = False) -> Rotation:
    """The rotation of tokens at positions [tokens]."""
    angles = (positions.to(torch.float32)[:, None] * frequencies)[:, None]
    return Rotation(angles.cos(), angles.sin(), is_interleaved)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, is_interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.is_interleaved = is_interleaved
        return rotate(x, cos, sin, is_interleaved)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(grads[0], cos, -sin, ctx.is_interleaved), None, None, None


def inverse_frequencies(shape: ModelShape) -> Tensor:
    """Radians per position of each pair of channels, [rotary_channels / 2], float32.

    Plain, linearly interpolated, Llama 3's (frequencies below `low_freq_factor` turns per original context are
    divided by `factor`, those above `high_freq_factor` stay, smooth in between) or yarn's (linear in between, by
    channel), as transformers computes them.
    """
    channels = torch.arange(0, shape.rotary_channels, 2, dtype=torch.int64).to(torch.float32)
    frequencies = 1.0 / (shape.rotary_base ** (channels / shape.rotary_channels))
    kind = shape.rope.get("rope_type", "default")
    if kind == "default":
        return frequencies
    factor = float(shape.rope["factor"])
    if kind == "linear":
        return frequencies / factor
    if kind == "yarn":
        share = _yarn_share(shape)
        return frequencies / factor * share + frequencies * (1 - share)
    low, high = float(shape.rope["low_freq_factor"]), float(shape.rope["high_freq_factor"])
    context = float(shape.rope["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    scaled = torch.where(wavelengths > context / low, frequencies / factor, frequencies)
    blend = (1 - smooth) * scaled / factor + smooth * scaled
    is_between = ~(wavelengths < context / high) & ~(wavelengths > context / low)
    return torch.where(is_between, blend, scaled)


def _yarn_share(shape: ModelShape) -> Tensor:
    """How much of each pair of channels is interpolated, [rotary_channels / 2] from 0 to 1."""
    width, context = shape.rotary_channels, float(shape.rope["original_max_position_embeddings"])

    def channel(turns: float) -> float:
        """Pair of channels that turns so often within the original context."""
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(shape.rotary_base))

    low, high = channel(float(shape.rope.get("beta_fast") or 32)), channel(float(shape.rope.get("beta_slow") or 1))
    if shape.rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    # two equal bounds are a step
    high = high + 0.001 if low == high else high
    return ((torch.arange(width // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)


def rotary_angles(positions: Tensor, frequencies: Tensor, *, interleaved: bool = False) -> Tensor:
    """Angles that Megatron's latent attention takes: [tokens] -> [tokens, 1, 1, rotary_channels]."""
    angles = positions.to(torch.float32)[:, None] * frequencies[None, :]
    both = angles.repeat_interleave(2, dim=-1) if interleaved else torch.cat((angles, angles), dim=-1)
    return both[:, None, None, :]
