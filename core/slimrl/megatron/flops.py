"""Floating-point operations of a model's passes, and what a device can do of them in a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from slimrl.megatron.shape import ModelShape

PEAK_TFLOPS: Final = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "4090": 165.0,
}
"""Dense bfloat16 TFLOP/s by a part of the device's name, the more special name first (the makers' data sheets)."""


def forward_flops(shape: ModelShape, lengths: Iterable[int], *, num_outputs: int) -> float:
    """Operations of one forward pass over sequences of these lengths; `num_outputs` of their tokens get logits.

    A multiplication and its addition are two. Matrices count two for each weight and token, attention two for each
    channel of a query that meets a key and two for each channel of the value it takes along, of n (n + 1) / 2 pairs in
    a causal sequence of n tokens. What is small beside them (norms, rotations, softmax) is left out.
    """
    lengths = list(lengths)
    num_tokens = sum(lengths)
    num_pairs = sum(length * (length + 1) / 2 for length in lengths)
    logits = shape.hidden_size * shape.vocab_size * num_outputs
    return 2.0 * (_weights_per_token(shape) * num_tokens + logits + _channels_per_pair(shape) * num_pairs)


def speed_metrics(
    flops: float, num_tokens: int, seconds: float, device_name: str, num_devices: int
) -> dict[str, float]:
    """Speed of training passes of one device: `flops` and tokens are those of all, the name is empty for a CPU."""
    if not num_tokens or not seconds:
        return {}
    tflops = flops / seconds / num_devices / 1e12
    metrics = {"perf/train_tokens_per_s": num_tokens / seconds / num_devices, "perf/train_tflops": tflops}
    peak = peak_tflops(device_name)
    return metrics if peak is None else {**metrics, "perf/train_mfu": tflops / peak}


def peak_tflops(device_name: str) -> float | None:
    """What a GPU of this name can do at most, None where it is not in the table."""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in device_name), None)


def _weights_per_token(shape: ModelShape) -> int:
    """Weights of the layers' matrices that one token is multiplied with: of experts those that it chooses."""
    feed_forward = sum(_feed_forward(shape, layer) for layer in range(shape.num_layers))
    return shape.num_layers * _attention(shape) + feed_forward


def _attention(shape: ModelShape) -> int:
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    if shape.mla is None:
        return shape.kv_channels * hidden * (2 * heads + 2 * shape.num_query_groups)
    mla = shape.mla
    query = heads * (mla.nope_channels + mla.rope_channels)
    rank = mla.q_lora_rank
    queries = hidden * query if rank is None else rank * (hidden + query)
    down = hidden * (mla.kv_lora_rank + mla.rope_channels)
    up = mla.kv_lora_rank * heads * (mla.nope_channels + mla.value_channels)
    return queries + down + up + heads * mla.value_channels * hidden


def _feed_forward(shape: ModelShape, layer: int) -> int:
    """Gate, up and down; the router is a matrix, too."""
    moe = shape.moe
    if moe is None or not moe.is_moe_layer[layer]:
        return 3 * shape.hidden_size * shape.ffn_hidden_size
    width = moe.top_k * moe.ffn_hidden_size + (moe.shared_ffn_hidden_size or 0)
    return shape.hidden_size * (3 * width + moe.num_experts)


def _channels_per_pair(shape: ModelShape) -> int:
    if shape.mla is None:
        return shape.num_layers * shape.num_attention_heads * 2 * shape.kv_channels
    mla = shape.mla
    channels = mla.nope_channels + mla.rope_channels + mla.value_channels
    return shape.num_layers * shape.num_attention_heads * channels
