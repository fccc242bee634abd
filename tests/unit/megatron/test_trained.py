"""The numbers that a plan counts as trained are those that have a gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slimrl.config import TrainedConfig
from slimrl.config.hf_folder import HfFolder
from slimrl.errors import ConfigError
from slimrl.megatron.checkpoint import read_config
from slimrl.megatron.trained import count_trained
from slimrl.megatron.trainer import MegatronTrainer


@pytest.mark.parametrize("family", ["llama-tied", "qwen3-moe", "deepseek-v3"])
@pytest.mark.parametrize(
    "trained",
    [
        TrainedConfig(freeze_params_name_list=("embedding", r"layers\.0\.")),
        TrainedConfig(only_train_params_name_list=("linear_proj", "final_layernorm")),
    ],
    ids=["frozen", "only"],
)
def test_what_is_counted_has_a_gradient(
    trained: TrainedConfig, family: str, checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    folder = checkpoints[family]
    model = HfFolder(folder, read_config(folder), (folder / "model.safetensors",))
    trainer = make_trainer(folder, trained=trained)
    with_gradient = sum(
        parameter.numel() for chunk in trainer._chunks for parameter in chunk.parameters() if parameter.requires_grad
    )
    assert 0 < with_gradient < model.count_parameters()
    assert count_trained(model.config, model.sizes(), trained) == with_gradient


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        (TrainedConfig(only_train_params_name_list=("gate_proj",)), "no parameter of the model fits 'gate_proj'"),
        (TrainedConfig(freeze_params_name_list=("",)), "leaves no parameter of the model to train"),
    ],
)
def test_what_trains_nothing_is_refused_before_there_is_a_trainer(
    trained: TrainedConfig, said: str, checkpoints: dict[str, Path]
) -> None:
    folder = checkpoints["llama-tied"]
    model = HfFolder(folder, read_config(folder), (folder / "model.safetensors",))
    with pytest.raises(ConfigError, match=said):
        count_trained(model.config, model.sizes(), trained)
