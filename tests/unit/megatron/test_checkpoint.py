"""Saving and resuming: as if never interrupted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from slimrl.config import CkptConfig, GrpoConfig, OptimizerConfig, TrainedConfig
from slimrl.errors import CheckpointError
from slimrl.megatron.random_state import random_state, restore_random_state
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

Make = Callable[..., MegatronTrainer]
MakeBatch = Callable[..., TrainBatch]
DTYPES = ("float32", "bfloat16")
COSINE = OptimizerConfig(lr=1e-3, lr_decay_style="cosine", lr_warmup_iters=3, adam_beta2=0.95)


def weights_of(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.export_weights()}


def numbers(trainer: MegatronTrainer, batch: TrainBatch) -> dict[str, float]:
    return {name: value for name, value in trainer.train(batch).metrics.items() if name.startswith("train/")}


@pytest.mark.parametrize(
    ("optimizer", "dtype", "ckpt_format"),
    [*product(("adam", "sgd"), DTYPES, ("safetensors",)), *product(("adam",), DTYPES, ("torch_dist",))],
)
def test_a_resumed_run_goes_on_bit_for_bit(
    optimizer: str,
    dtype: str,
    ckpt_format: Literal["safetensors", "torch_dist"],
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
) -> None:
    ckpt = CkptConfig(hf_checkpoint=checkpoints["qwen3-tied"], ckpt_format=ckpt_format)
    settings = {"optimizer": replace(COSINE, optimizer=optimizer), "num_steps_per_rollout": 2, "dtype": dtype}
    settings["ckpt"] = ckpt
    uninterrupted = make_trainer(checkpoints["qwen3-tied"], **settings)
    for step in range(2):
        uninterrupted.train(make_batch(step))
    uninterrupted.save(tmp_path)
    resumed = make_trainer(checkpoints["qwen3-tied"], **settings)
    resumed.load(tmp_path)
    # The first step after a resume does not use all of the restored state; the second one does.
    for step in range(2, 5):
        assert numbers(resumed, make_batch(step)) == numbers(uninterrupted, make_batch(step))
        expected = weights_of(uninterrupted)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(resumed).items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_is_written_later_as_if_no_step_had_followed(
    dtype: str, checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    trainer = make_trainer(checkpoints["qwen3-tied"], dtype=dtype)
    trainer.train(make_batch(0))
    snapshot = trainer.snapshot(with_export=True)
    (tmp_path / "at once").mkdir()
    trainer.save(tmp_path / "at once")
    trainer.train(make_batch(1))
    for name in ("later", "hf"):
        (tmp_path / name).mkdir()
    snapshot.write(tmp_path / "later")
    snapshot.write_hf(tmp_path / "hf")
    for file in ("optimizer.safetensors", "trainer.json", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "later" / file).read_bytes() == (tmp_path / "at once" / file).read_bytes(), file
    weights = [tmp_path / "hf" / "model.safetensors", tmp_path / "later" / "model" / "model.safetensors"]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.fixture
def _deterministic_torch_afterwards_off() -> Iterator[None]:
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.usefixtures("_deterministic_torch_afterwards_off")
def test_two_runs_are_equal_to_the_last_bit(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    runs = []
    for _ in range(2):
        trainer = make_trainer(checkpoints["llama-tied"], num_steps_per_rollout=2, deterministic=True)
        runs.append(([numbers(trainer, make_batch(step)) for step in range(3)], weights_of(trainer)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(tensor, runs[1][1][name]) for name, tensor in runs[0][1].items())


def test_a_checkpoint_before_the_first_step_can_be_resumed(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    for ckpt_format in ("safetensors", "torch_dist"):
        (tmp_path / ckpt_format).mkdir()
        ckpt = CkptConfig(hf_checkpoint=checkpoints["llama"], ckpt_format=ckpt_format)
        first = make_trainer(checkpoints["llama"], ckpt=ckpt)
        first.save(tmp_path / ckpt_format)
        second = make_trainer(checkpoints["llama"], ckpt=ckpt)
        second.load(tmp_path / ckpt_format)
        assert numbers(second, make_batch(0)) == numbers(first, make_batch(0))


def test_the_checkpoint_can_be_the_start_of_another_run(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    trainer = make_trainer(checkpoints["llama"])
    trainer.train(make_batch(0))
    trainer.save(tmp_path)
    other = make_trainer(checkpoints["llama"], ckpt=CkptConfig(hf_checkpoint=checkpoints["llama"], ref_load=tmp_path))
    expected = weights_of(trainer)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(other).items())
    assert other.train(make_batch(1)).metrics["train/lr"] == 1e-2


def test_a_resumed_run_keeps_the_first_reference_model(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    settings = {"grpo": GrpoConfig(use_kl_loss=True, kl_loss_coef=0.1, kl_loss_type="k3")}
    trainer = make_trainer(checkpoints["llama"], **settings)
    assert trainer.train(make_batch(0)).metrics["train/kl_loss"] == pytest.approx(0, abs=1e-9)
    trainer.save(tmp_path)
    resumed = make_trainer(checkpoints["llama"], **settings)
    resumed.load(tmp_path)
    metrics = numbers(resumed, make_batch(1))
    assert metrics["train/kl_loss"] > 1e-3
    assert metrics == numbers(trainer, make_batch(1))


def test_another_optimizer_than_the_saved_one_is_refused(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    trainer = make_trainer(checkpoints["llama"])
    trainer.train(make_batch(0))
    trainer.save(tmp_path)
    other = make_trainer(checkpoints["llama"], optimizer=OptimizerConfig(optimizer="sgd"))
    with pytest.raises(CheckpointError, match="saved with --optimizer adam, this run has sgd"):
        other.load(tmp_path)


@pytest.mark.parametrize("ckpt_format", ["safetensors", "torch_dist"])
def test_master_weights_of_bfloat16_are_the_weights_of_a_run_that_goes_on_in_float32(
    ckpt_format: Literal["safetensors", "torch_dist"],
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
) -> None:
    settings = {"ckpt": CkptConfig(hf_checkpoint=checkpoints["llama"], ckpt_format=ckpt_format)}
    trainer = make_trainer(checkpoints["llama"], dtype="bfloat16", **settings)
    trainer.train(make_batch(0))
    trainer.save(tmp_path)
    resumed = make_trainer(checkpoints["llama"], **settings)
    resumed.load(tmp_path)
    masters = {name: trainer._optimizer._own(name, "master") for name in resumed._optimizer.parameters}
    assert all(torch.equal(masters[name], weight) for name, weight in resumed._optimizer.parameters.items())


@pytest.mark.parametrize("ckpt_format", ["safetensors", "torch_dist"])
@pytest.mark.parametrize("flag", ["--freeze-params-name-list", "--sgd-momentum"])
def test_a_flag_that_leaves_the_saved_state_too_small_is_named(
    flag: str,
    ckpt_format: Literal["safetensors", "torch_dist"],
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
) -> None:
    sgd = OptimizerConfig(optimizer="sgd")
    settings = {"ckpt": CkptConfig(hf_checkpoint=checkpoints["llama"], ckpt_format=ckpt_format), "optimizer": sgd}
    other = {
        "--freeze-params-name-list": {"trained": TrainedConfig(freeze_params_name_list=("mlp",))},
        "--sgd-momentum": {"optimizer": replace(sgd, sgd_momentum=0.0)},
    }
    trainer = make_trainer(checkpoints["llama"], **{**settings, **other[flag]})
    trainer.train(make_batch(0))
    trainer.save(tmp_path)
    with pytest.raises(CheckpointError, match=rf"holds no momentum_buffer.*{flag}"):
        make_trainer(checkpoints["llama"], **settings).load(tmp_path)


def test_another_model_than_the_saved_one_is_refused(
    checkpoints: dict[str, Path], make_trainer: Make, tmp_path: Path
) -> None:
    make_trainer(checkpoints["qwen3"]).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no place for .*k_norm"):
        make_trainer(checkpoints["llama"]).load(tmp_path)


def test_a_checkpoint_without_optimizer_holds_the_same_weights(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    trainer = make_trainer(
        checkpoints["llama"], ckpt=CkptConfig(hf_checkpoint=checkpoints["llama"], no_save_optim=True)
    )
    trainer.train(make_batch(0))
    trainer.save(tmp_path)
    assert not (tmp_path / "optimizer.safetensors").exists()
    other = make_trainer(checkpoints["llama"], ckpt=CkptConfig(hf_checkpoint=checkpoints["llama"], ref_load=tmp_path))
    expected = weights_of(trainer)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(other).items())


def test_an_exported_folder_is_loaded_by_transformers(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    trainer = make_trainer(checkpoints["qwen3"])
    trainer.train(make_batch(0))
    trainer.save_hf(tmp_path)
    state = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights_of(trainer).items())


def test_a_damaged_checkpoint_is_named(checkpoints: dict[str, Path], make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(checkpoints["llama"])
    trainer.save(tmp_path)
    (tmp_path / "trainer.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, this version reads 1"):
        trainer.load(tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
        trainer.load(tmp_path)


def test_random_states_survive_json() -> None:
    before = random_state()
    draws = (random.random(), np.random.rand(), torch.rand(1).item())
    restore_random_state(json.loads(json.dumps(before)))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == draws
