"""Reading a model's shape and checking flags against it, without Megatron."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from slimrl.config import ModelConfig, OptimizerConfig
from slimrl.errors import ConfigError
from slimrl.megatron.schedule import learning_rate
from slimrl.megatron.shape import check_model_flags, model_shape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 9.999999747378752e-06,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
}


def test_shape_comes_from_either_generation_of_hf_config() -> None:
    older = {key: value for key, value in LLAMA.items() if key != "rope_parameters"}
    older |= {"rope_theta": 100000.0, "rope_scaling": None}
    assert model_shape(older) == model_shape(LLAMA)
    assert model_shape(LLAMA).kv_channels == 64


def test_flags_that_agree_are_accepted() -> None:
    flags = ModelConfig(num_layers=30, hidden_size=576, num_query_groups=3, norm_epsilon=1e-5, rotary_base=100000)
    assert check_model_flags(flags, LLAMA) == []


def test_every_flag_that_differs_is_named_with_both_values() -> None:
    problems = check_model_flags(ModelConfig(num_layers=12, vocab_size=50000, hidden_size=576), LLAMA)
    assert problems == [
        "--num-layers 12 but the checkpoint's is 30; leave the flag out to use it",
        "--vocab-size 50000 but the checkpoint's is 49152; leave the flag out to use it",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model type 'mamba' cannot be trained; there are: llama"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' cannot be trained"),
        ({"attention_bias": True}, "attention_bias of a llama model cannot be trained"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope type 'yarn' cannot be trained"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_position_embeddings": 64}, "sliding_window 8"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_starts(change: dict[str, Any], message: str) -> None:
    assert check_model_flags(ModelConfig(), LLAMA | change)[0].startswith(message)


DEEPSEEK: dict[str, Any] = LLAMA | {
    "model_type": "deepseek_v3",
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_intermediate_size": 256,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40, "original_max_position_embeddings": 4096}


def test_experts_and_latent_attention_come_from_the_config() -> None:
    shape = model_shape(DEEPSEEK | {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}})
    assert shape.moe is not None and shape.mla is not None
    assert (shape.kv_channels, shape.rotary_channels, shape.num_query_groups) == (192, 64, 9)
    assert shape.moe.is_moe_layer == (False, False, False, *[True] * 27)
    one_group = model_shape(DEEPSEEK | {"n_group": 1, "topk_group": 1}).moe
    assert one_group is not None and one_group.num_groups is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk_group": 2}, "num_experts_per_tok 8 with topk_group 2 cannot be trained"),
        ({"norm_topk_prob": False}, "norm_topk_prob False with num_experts_per_tok 8 cannot be trained"),
        ({"rope_interleave": False}, "rope_interleave false cannot be trained"),
        ({"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}, "yarn's attention factor 1.156 cannot"),
        ({"quantization_config": {"quant_method": "fp8"}}, "a quantised checkpoint cannot be trained"),
    ],
)
def test_what_the_router_or_latent_attention_cannot_do_is_said(change: dict[str, Any], message: str) -> None:
    assert check_model_flags(ModelConfig(), DEEPSEEK | change)[0].startswith(message)


def test_a_config_that_lacks_a_size_is_named() -> None:
    with pytest.raises(ConfigError, match=r"config\.json lacks 'vocab_size'"):
        model_shape({key: value for key, value in LLAMA.items() if key != "vocab_size"})


def test_checking_flags_imports_neither_torch_nor_megatron() -> None:
    code = "import sys, slimrl.megatron.shape; sys.exit('torch' in sys.modules or 'megatron' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_warm_up_rises_from_the_first_step_and_constant_stays() -> None:
    config = OptimizerConfig(lr=1.0, lr_warmup_iters=4)
    assert [learning_rate(config, step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("style", "middle"),
    [("linear", [1.0, 0.775, 0.55, 0.325, 0.1]), ("cosine", [1.0, 0.868198, 0.55, 0.231802, 0.1])],
)
def test_decay_starts_at_lr_and_ends_at_min_lr_on_the_last_step(style: Any, middle: list[float]) -> None:
    config = OptimizerConfig(lr=1.0, min_lr=0.1, lr_decay_style=style, lr_warmup_iters=2)
    assert [learning_rate(config, step, 7) for step in range(2, 7)] == pytest.approx(middle, abs=1e-6)
    assert learning_rate(config, 99, 7) == pytest.approx(0.1)
