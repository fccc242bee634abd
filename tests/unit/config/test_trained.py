"""Which parameters are trained: what has no effect, and what adapters cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slimrl.config import Config, GrpoConfig, TrainedConfig
from slimrl.config.check import check
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.memory import estimate_memory
from slimrl.config.trained import check_trained


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (TrainedConfig(lora_alpha=16), "--lora-alpha 16 has no effect without --lora-rank"),
        (TrainedConfig(lora_target_modules=("q_proj",)), "--lora-target-modules q_proj has no effect without"),
        (TrainedConfig(lora_rank=8, lora_target_modules=("all-linear", "q_proj")), "or all-linear alone"),
        (TrainedConfig(lora_rank=8, freeze_params_name_list=("mlp",)), "has no effect with --lora-rank"),
        (TrainedConfig(freeze_params_name_list=("mlp(",)), "'mlp(' is not a regular expression"),
        (
            TrainedConfig(freeze_params_name_list=("mlp",), only_train_params_name_list=("qkv",)),
            "both say what is trained",
        ),
    ],
)
def test_what_has_no_effect_is_named(config: TrainedConfig, problem: str) -> None:
    (said,) = check_trained(config)
    assert problem in said


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (TrainedConfig(), {"a.mlp.weight", "a.qkv.weight"}),
        (TrainedConfig(freeze_params_name_list=("mlp",)), {"a.qkv.weight"}),
        (TrainedConfig(only_train_params_name_list=(r"\.mlp\.", "nothing")), {"a.mlp.weight"}),
        (TrainedConfig(lora_rank=8), set()),
    ],
)
def test_parameters_are_chosen_by_name(config: TrainedConfig, trained: set[str]) -> None:
    assert {name for name in ("a.mlp.weight", "a.qkv.weight") if config.trains(name)} == trained


def test_adapters_are_scaled_by_alpha_over_rank() -> None:
    assert TrainedConfig(lora_rank=8, lora_alpha=4).lora_scale == 0.5
    assert TrainedConfig(lora_rank=8).lora_scale == 2


@pytest.mark.parametrize(("targets", "number"), [(("q_proj",), 0), (("q_proj", "c_attn"), 1), (("all-linear",), 0)])
def test_layers_that_the_model_does_not_have_are_named(
    targets: tuple[str, ...], number: int, make_config: Callable[..., Config], model_folder: Path
) -> None:
    entry = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    text = json.dumps({"model.layers.0.self_attn.q_proj.weight": entry}).encode()
    (model_folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    problems = check(make_config(trained=TrainedConfig(lora_rank=2, lora_target_modules=targets)))
    said = "--lora-target-modules: the model has no linear layer c_attn; there are: q_proj"
    assert problems == [said] * number


def test_the_plan_counts_gradients_and_moments_of_adapters_alone(
    make_config: Callable[..., Config], model_folder: Path
) -> None:
    """q_proj is 64 x 64: with rank 2 its adapter has 2 * (64 + 64) numbers beside the model's 64 * 64 + 64."""
    header = {
        "model.layers.0.self_attn.q_proj.weight": {"dtype": "F32", "shape": [64, 64], "data_offsets": [0, 16384]},
        "norm": {"dtype": "F32", "shape": [64], "data_offsets": [16384, 16640]},
    }
    text = json.dumps(header).encode()
    (model_folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16640))
    config = make_config(grpo=GrpoConfig(use_kl_loss=True))
    model = open_hf_folder(model_folder, "--hf-checkpoint")
    parts = {}
    for rank in (None, 2):
        trained = replace(config, trained=TrainedConfig(lora_rank=rank))
        processes = estimate_memory(trained, model, dtype="float32", samples_in_flight=8, has_critic=False)
        parts[rank] = next(process.parts for process in processes if process.name == "trainer")
    assert parts[None]["weights"] == 4160 * 4
    assert "reference model" in parts[None]
    assert parts[2]["weights"] == (4160 + 256) * 4
    assert (parts[2]["gradients"], parts[2]["optimizer"]) == (256 * 4, 256 * 8)
    assert "reference model" not in parts[2]
