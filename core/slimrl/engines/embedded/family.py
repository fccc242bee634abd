"""The Llama family's forward pass: Llama, SmolLM2, Mistral, Qwen2 and Qwen3 are one function with switches.

Attention is the caller's: prefill and decode keep keys and values in different places, everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from slimrl.engines.embedded.shape import ModelShape, inverse_frequencies
from slimrl.engines.embedded.weights import NamedWeights

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim]) -> [rows, heads * head_dim]."""


@dataclass(slots=True)
class Layer:
    """Weights of one layer; what is used together is stored together."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: torch.Tensor
    output_bias: torch.Tensor | None
    ffn_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


class FamilyModel:
    """Weights (uninitialised until `weights.load`) and forward pass of one model of the family."""

    def __init__(self, shape: ModelShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self._inverse_frequencies = inverse_frequencies(shape).to(device)
        self._named: dict[str, torch.Tensor] = {}
        self.embedding = self._weight("model.embed_tokens.weight", shape.vocab_size, shape.hidden_size)
        self.layers = [self._layer(f"model.layers.{index}") for index in range(shape.num_layers)]
        self.final_norm = self._weight("model.norm.weight", shape.hidden_size)
        if shape.tied_head:
            self.head = self.embedding
        else:
            self.head = self._weight("lm_head.weight", shape.vocab_size, shape.hidden_size)
        aliases = {"lm_head.weight": "model.embed_tokens.weight"} if shape.tied_head else {}
        self.weights = NamedWeights(self._named, aliases)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Hidden states [rows, hidden] before the final norm, of tokens [rows] at positions [rows]."""
        shape = self.shape
        num_heads, num_kv_heads, head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        epsilon = shape.norm_epsilon
        rows = tokens.shape[0]
        cos, sin = self._rotations(positions)
        hidden = F.embedding(tokens, self.embedding)
        for index, layer in enumerate(self.layers):
            normed = F.rms_norm(hidden, (shape.hidden_size,), layer.input_norm, epsilon)
            qkv = linear(normed, layer.qkv, layer.qkv_bias).view(rows, num_heads + 2 * num_kv_heads, head_dim)
            value = qkv[:, num_heads + num_kv_heads :]
            if layer.q_norm is not None:
                query, key = qkv[:, :num_heads], qkv[:, num_heads : num_heads + num_kv_heads]
                query = _rotate(F.rms_norm(query, (head_dim,), layer.q_norm, epsilon), cos, sin)
                key = _rotate(F.rms_norm(key, (head_dim,), layer.k_norm, epsilon), cos, sin)
            else:
                rotated = _rotate(qkv[:, : num_heads + num_kv_heads], cos, sin)
                query, key = rotated[:, :num_heads], rotated[:, num_heads:]
            attended = attend(index, query, key, value)
            hidden = hidden + linear(attended, layer.output, layer.output_bias)
            normed = F.rms_norm(hidden, (shape.hidden_size,), layer.ffn_norm, epsilon)
            gate_up = linear(normed, layer.gate_up, layer.gate_up_bias)
            gated = F.silu(gate_up[:, : shape.ffn_size]).mul_(gate_up[:, shape.ffn_size :])
            hidden = hidden + linear(gated, layer.down, layer.down_bias)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits [rows, vocabulary] of hidden states [rows, hidden]."""
        normed = F.rms_norm(hidden, (self.shape.hidden_size,), self.final_norm, self.shape.norm_epsilon)
        return linear(normed, self.head, None).float()

    def _rotations(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines, [rows, 1, head_dim] each."""
        angles = positions[:, None].float() * self._inverse_frequencies
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        return torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]

    def _layer(self, prefix: str) -> Layer:
        shape = self.shape
        query_size, kv_size = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        hidden, ffn = shape.hidden_size, shape.ffn_size
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        projections = {"q_proj": query_size, "k_proj": kv_size, "v_proj": kv_size}
        qkv = {f"{attention}.{name}": size for name, size in projections.items()}
        gate_up = {f"{mlp}.gate_proj": ffn, f"{mlp}.up_proj": ffn}
        return Layer(
            input_norm=self._weight(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._fused(qkv, "weight", hidden),
            qkv_bias=self._fused(qkv, "bias") if shape.qkv_bias else None,
            q_norm=self._weight(f"{attention}.q_norm.weight", shape.head_dim) if shape.head_norm else None,
            k_norm=self._weight(f"{attention}.k_norm.weight", shape.head_dim) if shape.head_norm else None,
            output=self._weight(f"{attention}.o_proj.weight", hidden, query_size),
            output_bias=self._weight(f"{attention}.o_proj.bias", hidden) if shape.output_bias else None,
            ffn_norm=self._weight(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._fused(gate_up, "weight", hidden),
            gate_up_bias=self._fused(gate_up, "bias") if shape.ffn_bias else None,
            down=self._weight(f"{mlp}.down_proj.weight", hidden, ffn),
            down_bias=self._weight(f"{mlp}.down_proj.bias", hidden) if shape.ffn_bias else None,
        )

    def _weight(self, name: str, *size: int) -> torch.Tensor:
        tensor = torch.empty(size, dtype=self.dtype, device=self.device)
        self._named[name] = tensor
        return tensor

    def _fused(self, parts: dict[str, int], kind: str, *columns: int) -> torch.Tensor:
        """One tensor for several that the same input meets; each part keeps its HF name as a view."""
        whole = torch.empty((sum(parts.values()), *columns), dtype=self.dtype, device=self.device)
        for name, part in zip(parts, torch.split(whole, list(parts.values())), strict=True):
            self._named[f"{name}.{kind}"] = part
        return whole


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`rows @ weight.T + bias`, [rows, out], in the operand order that is fast for this many rows."""
    # MKL takes up to three times as long for two to four rows times a wide matrix than for the transposed product
    if 2 <= rows.shape[0] <= 4 and rows.device.type == "cpu" and rows.dtype is torch.float32:
        product = weight.mm(rows.t()).t().contiguous()
        return product if bias is None else product.add_(bias)
    return F.linear(rows, weight, bias)


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [rows, heads, head_dim] by what `_rotations` returns."""
    first, second = heads.chunk(2, -1)
    return torch.addcmul(heads * cos, torch.cat((second, first), -1), sin)
