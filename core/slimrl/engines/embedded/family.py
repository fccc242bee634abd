"""The Llama family's forward pass: Llama, SmolLM2, Mistral, Qwen2 and Qwen3 are one function with switches.

Attention is the caller's: prefill and decode keep keys and values in different places, everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from slimrl.engines.embedded.matrix import Matrix
from slimrl.engines.embedded.shape import ModelShape, inverse_frequencies
from slimrl.engines.embedded.weights import NamedWeights, Part, Weight, Whole

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim]) -> [rows, heads * head_dim].

Queries come divided by the square root of head_dim.
"""


@dataclass(slots=True)
class Layer:
    """Weights of one layer; what is used together is stored together."""

    input_norm: torch.Tensor
    qkv: Matrix
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Matrix
    output_bias: torch.Tensor | None
    ffn_norm: torch.Tensor
    gate_up: Matrix
    gate_up_bias: torch.Tensor | None
    down: Matrix
    down_bias: torch.Tensor | None


class FamilyModel:
    """Weights (uninitialised until `weights.load`) and forward pass of one model of the family."""

    def __init__(self, shape: ModelShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self._inverse_frequencies = inverse_frequencies(shape).to(device)
        scales = [shape.head_dim**-0.5] * shape.num_heads + [1.0] * shape.num_kv_heads
        self._head_scales = torch.tensor(scales, device=device)[:, None]
        self._named: dict[str, Weight] = {}
        self.layers = [self._layer(f"model.layers.{index}") for index in range(shape.num_layers)]
        self.final_norm = self._vector("model.norm.weight", shape.hidden_size)
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        self._embedding: torch.Tensor | None = None
        if shape.tied_head:
            self._head = self._matrix({embedding: shape.vocab_size}, shape.hidden_size, keep_dense=True)
        else:
            self._head = self._matrix({head: shape.vocab_size}, shape.hidden_size)
            self._embedding = torch.empty((shape.vocab_size, shape.hidden_size), dtype=dtype, device=device)
            self._named[embedding] = Whole(self._embedding)
        self.weights = NamedWeights(self._named, {head: embedding} if shape.tied_head else {})

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Hidden states [rows, hidden] before the final norm, of tokens [rows] at positions [rows]."""
        shape = self.shape
        num_heads, num_kv_heads, head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        epsilon = shape.norm_epsilon
        rows = tokens.shape[0]
        cos, sin = self._rotations(positions)
        hidden = F.embedding(tokens, self._head.dense if self._embedding is None else self._embedding)
        for index, layer in enumerate(self.layers):
            normed = F.rms_norm(hidden, (shape.hidden_size,), layer.input_norm, epsilon)
            qkv = layer.qkv.multiply(normed, layer.qkv_bias).view(rows, num_heads + 2 * num_kv_heads, head_dim)
            heads, value = qkv[:, : num_heads + num_kv_heads], qkv[:, num_heads + num_kv_heads :]
            if layer.q_norm is not None and layer.k_norm is not None:
                query = F.rms_norm(heads[:, :num_heads], (head_dim,), layer.q_norm, epsilon)
                key = F.rms_norm(heads[:, num_heads:], (head_dim,), layer.k_norm, epsilon)
                heads = torch.cat((query, key), 1)
            heads = _rotate(heads, cos, sin)
            query, key = heads[:, :num_heads], heads[:, num_heads:]
            attended = attend(index, query, key, value)
            hidden = hidden + layer.output.multiply(attended, layer.output_bias)
            normed = F.rms_norm(hidden, (shape.hidden_size,), layer.ffn_norm, epsilon)
            gate_up = layer.gate_up.multiply(normed, layer.gate_up_bias)
            gated = F.silu(gate_up[:, : shape.ffn_size]).mul_(gate_up[:, shape.ffn_size :])
            hidden = hidden + layer.down.multiply(gated, layer.down_bias)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits [rows, vocabulary] of hidden states [rows, hidden]."""
        normed = F.rms_norm(hidden, (self.shape.hidden_size,), self.final_norm, self.shape.norm_epsilon)
        return self._head.multiply_exactly(normed)

    def _rotations(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines, [rows, query and key heads, head_dim] each; they scale the queries too."""
        angles = positions[:, None].float() * self._inverse_frequencies
        cos, sin = angles.cos(), angles.sin()
        cos, sin = torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]
        return (cos * self._head_scales).to(self.dtype), (sin * self._head_scales).to(self.dtype)

    def _layer(self, prefix: str) -> Layer:
        shape = self.shape
        query_size, kv_size = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        hidden, ffn = shape.hidden_size, shape.ffn_size
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        qkv = {f"{attention}.q_proj": query_size, f"{attention}.k_proj": kv_size, f"{attention}.v_proj": kv_size}
        gate_up = {f"{mlp}.gate_proj": ffn, f"{mlp}.up_proj": ffn}
        output, down = f"{attention}.o_proj", f"{mlp}.down_proj"
        return Layer(
            input_norm=self._vector(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._matrix(_named(qkv, "weight"), hidden),
            qkv_bias=self._bias(_named(qkv, "bias")) if shape.qkv_bias else None,
            q_norm=self._vector(f"{attention}.q_norm.weight", shape.head_dim) if shape.head_norm else None,
            k_norm=self._vector(f"{attention}.k_norm.weight", shape.head_dim) if shape.head_norm else None,
            output=self._matrix({f"{output}.weight": hidden}, query_size),
            output_bias=self._vector(f"{output}.bias", hidden) if shape.output_bias else None,
            ffn_norm=self._vector(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._matrix(_named(gate_up, "weight"), hidden),
            gate_up_bias=self._bias(_named(gate_up, "bias")) if shape.ffn_bias else None,
            down=self._matrix({f"{down}.weight": hidden}, ffn),
            down_bias=self._vector(f"{down}.bias", hidden) if shape.ffn_bias else None,
        )

    def _vector(self, name: str, size: int) -> torch.Tensor:
        return self._bias({name: size})

    def _bias(self, parts: dict[str, int]) -> torch.Tensor:
        """One vector for several that the same product adds; each keeps its HF name as a view."""
        whole = torch.empty(sum(parts.values()), dtype=self.dtype, device=self.device)
        for name, part in zip(parts, torch.split(whole, list(parts.values())), strict=True):
            self._named[name] = Whole(part)
        return whole

    def _matrix(self, parts: dict[str, int], num_inputs: int, *, keep_dense: bool = False) -> Matrix:
        """One matrix for several that the same input meets, by HF name and number of outputs."""
        matrix = Matrix(list(parts.values()), num_inputs, self.dtype, self.device, keep_dense=keep_dense)
        for index, name in enumerate(parts):
            self._named[name] = Part(matrix, index)
        return matrix


def _named(parts: dict[str, int], kind: str) -> dict[str, int]:
    return {f"{name}.{kind}": size for name, size in parts.items()}


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of [rows, heads, head_dim] by what `_rotations` returns."""
    first, second = heads.chunk(2, -1)
    return torch.addcmul(heads * cos, torch.cat((second, first), -1), sin)
