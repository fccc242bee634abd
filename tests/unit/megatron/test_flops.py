"""Floating-point operations, against torch's own counter on transformers' models, and the speed made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from slimrl.megatron.checkpoint import read_config
from slimrl.megatron.flops import forward_flops, peak_tflops, speed_metrics
from slimrl.megatron.shape import model_shape

LENGTH = 16


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3-moe", "glm4", "deepseek-v3", "deepseek-v3-yarn"])
def test_the_operations_of_a_forward_pass_are_those_that_torch_counts(
    checkpoints: dict[str, Path], family: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints[family], attn_implementation="eager")
    model.set_experts_implementation("eager")  # the counter does not see grouped products
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(LENGTH)[None])
    shape = model_shape(read_config(checkpoints[family]))
    ours = forward_flops(shape, [LENGTH], num_outputs=LENGTH)
    # eager attention computes all pairs, ours the causal ones
    channels = sum((shape.kv_channels, shape.mla.value_channels if shape.mla else shape.kv_channels))
    not_causal = shape.num_layers * shape.num_attention_heads * 2 * channels * LENGTH * (LENGTH - 1) / 2
    assert ours + not_causal == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_attention_grows_with_the_square_of_a_sequence_and_all_else_with_its_length(
    checkpoints: dict[str, Path],
) -> None:
    shape = model_shape(read_config(checkpoints["llama"]))

    def flops(*lengths: int) -> float:
        return forward_flops(shape, lengths, num_outputs=0)

    assert flops(8, 8) == 2 * flops(8)
    pairs = 16 * 17 / 2 - 2 * 8 * 9 / 2
    assert flops(16) - flops(8, 8) == pairs * 4 * shape.num_layers * shape.num_attention_heads * shape.kv_channels


def test_speed_is_told_for_one_device_and_as_a_share_of_what_it_can_do() -> None:
    speed = speed_metrics(989e12, 3000, 2.0, "NVIDIA H100 80GB HBM3", 2)
    assert speed == {"perf/train_tokens_per_s": 750.0, "perf/train_tflops": 247.25, "perf/train_mfu": 0.25}
    assert speed_metrics(1e12, 10, 1.0, "", 1) == {"perf/train_tokens_per_s": 10.0, "perf/train_tflops": 1.0}
    assert speed_metrics(0.0, 0, 1.0, "", 1) == {}
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0
