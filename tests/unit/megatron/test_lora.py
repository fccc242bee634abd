"""Adapters: their gradients, what is published of them, and that PEFT reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from slimrl.config import CkptConfig, GrpoConfig, OptimizerConfig, TrainedConfig
from slimrl.config.layout import KEEP_ALL, Recompute
from slimrl.errors import CheckpointError, ConfigError
from slimrl.megatron.tensor_files import TensorReader
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

Make = Callable[..., MegatronTrainer]
MakeBatch = Callable[..., TrainBatch]
LORA = TrainedConfig(lora_rank=3, lora_alpha=5.0)
OTHERS = {
    "qwen3-moe": ("k_proj", "o_proj"),
    "glm4": ("o_proj", "down_proj"),
    "deepseek-v3": ("q_a_proj", "kv_b_proj"),
}
SOME = TrainedConfig(lora_rank=2, lora_target_modules=("q_proj", "v_proj", "up_proj"))


def weights_of(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.export_weights()}


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    reader = TensorReader(folder)
    return {name: reader.read(name) for name in reader.names()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_before_the_first_step_the_published_weights_are_the_models_own(
    checkpoints: dict[str, Path], make_trainer: Make, dtype: str
) -> None:
    plain = make_trainer(checkpoints["qwen3-tied"], dtype=dtype)
    assert same(weights_of(make_trainer(checkpoints["qwen3-tied"], dtype=dtype, trained=LORA)), weights_of(plain))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3-tied", "qwen3-moe", "glm4", "deepseek-v3"])
@pytest.mark.parametrize("config", [LORA, SOME], ids=["all-linear", "some"])
def test_gradients_of_the_adapters_are_those_of_the_merged_weights(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, family: str, config: TrainedConfig
) -> None:
    """dL/dB = s G A^T and dL/dA = s B^T G, where G is the gradient of the full weight at W + s B A."""
    if config is SOME and family in OTHERS:
        config = TrainedConfig(lora_rank=2, lora_target_modules=OTHERS[family])
    sgd = {"optimizer": OptimizerConfig(optimizer="sgd", lr=1.0, sgd_momentum=0.0, weight_decay=0.0, clip_grad=0.0)}
    lora = make_trainer(checkpoints[family], trained=config, **sgd)
    generator = torch.Generator().manual_seed(0)
    for adapter in lora._shards.adapters.values():
        for matrix in adapter.lora_B.values():
            matrix.data.normal_(0, 0.1, generator=generator)
    before = {name: tensor.clone() for name, tensor in lora._shards.adapter_weights()}
    full = make_trainer(checkpoints[family], **sgd)
    full._shards.load(_Given(weights_of(lora)))
    base = weights_of(full)

    lora.train(make_batch(0))
    full.train(make_batch(0))
    gradients = {name: base[name] - tensor for name, tensor in weights_of(full).items()}
    after = dict(lora._shards.adapter_weights())
    assert before.keys() == after.keys()
    for name in before:
        module, matrix, _ = name.rsplit(".", 2)
        grad, a, b = gradients[f"{module}.weight"], before[f"{module}.lora_A.weight"], before[f"{module}.lora_B.weight"]
        expected = config.lora_scale * (grad @ a.T if matrix == "lora_B" else b.T @ grad)
        torch.testing.assert_close(before[name] - after[name], expected, rtol=2e-4, atol=2e-6)
        assert expected.abs().max() > 1e-5


class _Given(TensorReader):
    """Tensors from memory in the place of a folder."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.folder = Path("memory")
        self._tensors = tensors

    def names(self) -> set[str]:
        return set(self._tensors)

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize(("family", "config"), [("qwen2", LORA), ("qwen3-tied", SOME), ("qwen3-moe", LORA)])
def test_peft_loads_the_adapters_and_merges_them_into_what_is_published(
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
    family: str,
    config: TrainedConfig,
) -> None:
    trainer = make_trainer(checkpoints[family], trained=config)
    base = weights_of(trainer)
    for step in range(2):
        trainer.train(make_batch(step))
    trainer.save_hf(tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(checkpoints[family])
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    merged = loaded.merge_and_unload()
    published = weights_of(trainer)
    changed = {name for name in base if not torch.equal(published[name], base[name])}
    modules = {name.split(".")[-2] for name in changed}
    assert modules == set(json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"])
    merged.save_pretrained(tmp_path / "merged")
    found = saved_weights(tmp_path / "merged")
    for name, tensor in published.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_resumed_run_goes_on_bit_for_bit_from_adapters_alone(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    settings = {"trained": SOME, "dtype": "bfloat16"}
    uninterrupted = make_trainer(checkpoints["qwen3-tied"], **settings)
    for step in range(2):
        uninterrupted.train(make_batch(step))
    uninterrupted.save(tmp_path)
    assert not (tmp_path / "model").exists()
    names = {name.split("/")[1] for name in saved_weights(tmp_path)}
    assert len(names) == 3 * 3 * 2
    assert all(".adapter.lora_" in name for name in names)
    resumed = make_trainer(checkpoints["qwen3-tied"], **settings)
    resumed.load(tmp_path)
    for step in range(2, 4):
        uninterrupted.train(make_batch(step))
        resumed.train(make_batch(step))
        assert same(weights_of(resumed), weights_of(uninterrupted))


def test_the_reference_model_is_the_model_without_adapters(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    grpo = GrpoConfig(use_kl_loss=True, kl_loss_coef=0.1, kl_loss_type="k3")
    lora = make_trainer(checkpoints["llama"], trained=LORA, grpo=grpo)
    assert lora.train(make_batch(0)).metrics["train/kl_loss"] == pytest.approx(0, abs=1e-9)
    merged = weights_of(lora)
    full = make_trainer(checkpoints["llama"], grpo=grpo)
    full._shards.load(_Given(merged))
    expected = full.train(make_batch(1)).metrics["train/kl_loss"]
    assert expected > 1e-4
    assert lora.train(make_batch(1)).metrics["train/kl_loss"] == pytest.approx(expected, rel=1e-4)


def test_only_adapters_have_gradients_and_optimizer_state(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    trainer = make_trainer(checkpoints["qwen3"], trained=SOME)
    trainer.train(make_batch(0))
    for name, (_, parameter) in trainer._shards.own.items():
        assert hasattr(parameter, "main_grad") == (".adapter." in name)
    assert all(".adapter." in name for name, _ in trainer._optimizer.state())


def test_layers_that_are_computed_again_have_the_same_gradients(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    recompute = Recompute("full", "uniform", 1)
    kept, again = (
        make_trainer(checkpoints["llama"], trained=LORA, recompute=how).train(make_batch(0)).metrics
        for how in (KEEP_ALL, recompute)
    )
    assert again["train/grad_norm"] == pytest.approx(kept["train/grad_norm"], rel=1e-6)
    assert kept["train/grad_norm"] > 0


@pytest.mark.parametrize(
    ("saved", "resumed", "problem"),
    [
        (SOME, TrainedConfig(), "was saved with --lora-rank and holds adapters alone"),
        (TrainedConfig(), SOME, "was saved without --lora-rank"),
        (SOME, TrainedConfig(lora_rank=2), "resume with the --lora-target-modules it was saved with"),
        (TrainedConfig(lora_rank=3), LORA, "adapters scaled by 2.0, this run scales them by"),
        (TrainedConfig(lora_rank=4), TrainedConfig(lora_rank=8), "resume with the --lora-rank it was saved with"),
    ],
)
def test_a_checkpoint_of_other_adapters_is_refused(
    checkpoints: dict[str, Path],
    make_trainer: Make,
    tmp_path: Path,
    saved: TrainedConfig,
    resumed: TrainedConfig,
    problem: str,
) -> None:
    make_trainer(checkpoints["llama"], trained=saved).save(tmp_path)
    with pytest.raises(CheckpointError, match=problem):
        make_trainer(checkpoints["llama"], trained=resumed).load(tmp_path)


def test_a_target_that_the_model_does_not_have_is_named_with_those_it_has(
    checkpoints: dict[str, Path], make_trainer: Make
) -> None:
    with pytest.raises(ConfigError, match=r"no linear layer c_attn; there are: down_proj, .*v_proj"):
        make_trainer(checkpoints["llama"], trained=TrainedConfig(lora_rank=2, lora_target_modules=("c_attn",)))


def test_adapters_go_on_a_model_that_was_trained_before(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    first = make_trainer(checkpoints["llama"])
    first.train(make_batch(0))
    first.save(tmp_path)
    ckpt = CkptConfig(hf_checkpoint=checkpoints["llama"], ref_load=tmp_path)
    adapted = make_trainer(checkpoints["llama"], ckpt=ckpt, trained=LORA)
    assert same(weights_of(adapted), weights_of(first))
    adapted.save_hf(tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (Path(said["base_model_name_or_path"]) / "config.json").is_file()


@pytest.mark.parametrize(
    ("config", "is_trained"),
    [
        (TrainedConfig(freeze_params_name_list=("embedding", r"layers\.0\.")), lambda name: "layers.0." not in name),
        (TrainedConfig(only_train_params_name_list=(r"mlp\.",)), lambda name: ".mlp." in name),
    ],
)
def test_only_parameters_that_the_lists_leave_are_trained(
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    config: TrainedConfig,
    is_trained: Callable[[str], bool],
) -> None:
    trainer = make_trainer(checkpoints["qwen3"], trained=config)
    base = weights_of(trainer)
    trainer.train(make_batch(0))
    after = weights_of(trainer)
    changed = {name for name in base if not torch.equal(base[name], after[name])}
    assert changed == {name for name in base if is_trained(name) and "embed" not in name}
    names = {name.split("/")[1] for name, _ in trainer._optimizer.state()}
    assert {
        hasattr(parameter, "main_grad") for name, (_, parameter) in trainer._shards.own.items() if name in names
    } == {True}
    assert not any(
        hasattr(parameter, "main_grad") for name, (_, parameter) in trainer._shards.own.items() if name not in names
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (TrainedConfig(freeze_params_name_list=("gate_proj",)), "no parameter of the model fits 'gate_proj'"),
        (TrainedConfig(freeze_params_name_list=("",)), "leaves no parameter to train"),
    ],
)
def test_a_list_that_fits_nothing_or_everything_is_refused(
    checkpoints: dict[str, Path], make_trainer: Make, config: TrainedConfig, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_trainer(checkpoints["llama"], trained=config)
