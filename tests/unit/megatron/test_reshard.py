"""Distributed checkpoints of trainers of two processes: written at one layout, gone on with at another.

The processes run this file as a script; one launch trains all layouts.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimrl.cli.convert import main as convert
from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig
from slimrl.config.layout import SINGLE, Layout
from slimrl.megatron.tensor_files import TensorReader
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

WATCHED = ("train/loss", "train/grad_norm")
ONE_STEP = {"rel": 1e-4, "abs": 1e-5}
"""Sums in another order."""
THREE_STEPS = {"dense": {"rel": 1e-3, "abs": 1e-4}, "experts": {"rel": 3e-3, "abs": 3e-4}}
"""And that through Adam, which divides by small second moments; experts have few tokens."""


@dataclass(frozen=True)
class Case:
    """A layout, and whose checkpoint it goes on with after its own is written."""

    layout: Layout
    resumes: str
    model: str = "dense"
    is_copied: bool = False
    """Whether its checkpoint is written from a copy, after a step that followed."""


CASES: Mapping[str, Case] = {
    "dp2": Case(Layout(2), "single dense"),
    "dp2 shared": Case(Layout(2, shares_optimizer=True), "single dense", is_copied=True),
    "tp2 sp": Case(Layout(2, tensor_size=2, is_sequence_parallel=True), "dp2 shared", is_copied=True),
    "pp2": Case(Layout(2, pipeline_size=2), "tp2 sp"),
    "cp2 shared": Case(Layout(2, context_size=2, shares_optimizer=True), "pp2"),
    "vpp2": Case(Layout(2, pipeline_size=2, chunks_per_stage=2), "dp2"),
    "ep2 shared": Case(Layout(2, expert_size=2, shares_optimizer=True), "single experts", "experts"),
    "tp2 sp, whole experts, shared": Case(
        Layout(2, tensor_size=2, is_sequence_parallel=True, shares_optimizer=True), "ep2 shared", "experts"
    ),
    "tp2 experts": Case(
        Layout(2, tensor_size=2, expert_tensor_size=2, is_sequence_parallel=True), "ep2 shared", "experts"
    ),
}


def centred(rewards: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    means = np.bincount(group_ids, rewards) / np.bincount(group_ids)
    return rewards - means[group_ids]


def make(model: Path, layout: Layout = SINGLE, rank: int = 0, meeting: Path | None = None) -> MegatronTrainer:
    trainer = MegatronTrainer(
        CkptConfig(hf_checkpoint=model, ckpt_format="torch_dist"),
        ModelConfig(),
        0.8,
        GrpoConfig(),
        OptimizerConfig(lr=1e-3, weight_decay=0.1, adam_beta2=0.95, clip_grad=0.5),
        PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=48),
        num_steps_per_rollout=2,
        global_batch_size=64,
        total_steps=10,
        advantage=centred,
        transport=None,
        device="cpu",
        dtype="float32",
        layout=layout,
        rank=rank,
        meeting=meeting,
    )
    trainer.load(None)
    return trainer


def watched(trainer: MegatronTrainer, batch: TrainBatch) -> dict[str, float]:
    metrics = trainer.train(batch).metrics
    return {name: metrics[name] for name in WATCHED}


def numbers(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    """Weights and optimizer state put together from all processes, in the first."""
    together = [*trainer.export_weights(), *trainer._optimizer.state()]
    return {name: tensor.clone() for name, tensor in together}


def batches(folder: Path) -> list[TrainBatch]:
    found: list[TrainBatch] = pickle.loads((folder / "batches").read_bytes())  # noqa: S301  # the test wrote it
    return found


def train_cases(folder: Path, rank: int) -> None:
    """What each process does, at the same time as the other."""
    torch.set_num_threads(1)
    *first, last = batches(folder)
    found = {}
    for name, case in CASES.items():
        trainer = make(folder / case.model, case.layout, rank, folder / "meeting")
        for batch in first:
            trainer.train(batch)
        (folder / name).mkdir(exist_ok=True)
        if case.is_copied:
            snapshot = trainer.snapshot()
            trainer.train(last)
            snapshot.write(folder / name)
        else:
            trainer.save(folder / name)
        torch.distributed.barrier()
        trainer.load(folder / case.resumes)
        held = numbers(trainer)
        if rank == 0:
            torch.save(held, folder / f"{name}.numbers")
        found[name] = watched(trainer, last)
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def save_models(folder: Path, draw_weights: Callable[..., None]) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    # a vocabulary that two processes cannot share equally
    shape: dict[str, Any] = {"vocab_size": 83, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
    state = torch.get_rng_state()
    torch.manual_seed(0)
    models = {
        "dense": Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True)),
        "experts": Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, tie_word_embeddings=False)),
    }
    for name, model in models.items():
        draw_weights(model)
        model.save_pretrained(folder / name)
    torch.set_rng_state(state)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_batch: Callable[..., TrainBatch],
    draw_weights: Callable[..., None],
) -> Path:
    folder = tmp_path_factory.mktemp("reshard")
    save_models(folder, draw_weights)
    (folder / "batches").write_bytes(pickle.dumps([make_batch(seed=seed) for seed in range(3)]))
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, dict[str, float]]:
    """The step after the checkpoint that one process makes of each model, in a run that is never cut off."""
    found = {}
    *first, last = batches(folder)
    for model in ("dense", "experts"):
        trainer = make(folder / model)
        for batch in first:
            trainer.train(batch)
        (folder / f"single {model}").mkdir()
        trainer.save(folder / f"single {model}")
        found[model] = watched(trainer, last)
    return found


@pytest.fixture(scope="module")
def launched(
    folder: Path, expected: dict[str, dict[str, float]], launch: Callable[..., None]
) -> list[dict[str, dict[str, float]]]:
    """What each of the two processes reports of the step after the checkpoint that it loaded."""
    launch(__file__, folder, 2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def of_one_process(
    launched: list[dict[str, dict[str, float]]], folder: Path
) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]]:
    """What one process has after it loaded each checkpoint, and its next step."""
    *_, last = batches(folder)
    models = {
        **{name: case.model for name, case in CASES.items()},
        "single dense": "dense",
        "single experts": "experts",
    }
    found = {}
    for name, model in models.items():
        trainer = make(folder / model)
        trainer.load(folder / name)
        found[name] = numbers(trainer), watched(trainer, last)
    return found


@pytest.mark.timeout(900)
def test_another_layout_gets_the_same_numbers_to_the_last_bit(
    of_one_process: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]], folder: Path
) -> None:
    for name, case in CASES.items():
        found, expected = torch.load(folder / f"{name}.numbers"), of_one_process[case.resumes][0]
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items()), f"{name} from {case.resumes}"


def test_the_next_step_is_that_of_one_process_from_the_same_checkpoint(
    launched: list[dict[str, dict[str, float]]],
    of_one_process: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]],
) -> None:
    for name, case in CASES.items():
        for found in launched:
            assert found[name] == pytest.approx(of_one_process[case.resumes][1], **ONE_STEP), name


def test_the_next_step_is_that_of_a_run_that_was_never_cut_off(
    of_one_process: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]], expected: dict[str, dict[str, float]]
) -> None:
    assert of_one_process["single dense"][1] == expected["dense"]
    for name, case in CASES.items():
        assert of_one_process[name][1] == pytest.approx(expected[case.model], **THREE_STEPS[case.model]), name


def test_the_weights_of_two_processes_become_one_hugging_face_folder(
    launched: list[dict[str, dict[str, float]]], folder: Path, tmp_path: Path
) -> None:
    for number, (name, case) in enumerate(CASES.items()):
        trainer = make(folder / case.model)
        trainer.load(folder / name)
        assert convert(["--to", "hf", "--input", str(folder / name), "--output", str(tmp_path / str(number))]) == 0
        reader = TensorReader(tmp_path / str(number))
        assert all(torch.equal(reader.read(key), tensor) for key, tensor in trainer.export_weights()), name


def test_each_process_writes_what_it_alone_has(launched: list[dict[str, dict[str, float]]], folder: Path) -> None:
    whole = sum(file.stat().st_size for file in (folder / "single dense" / "optimizer").glob("*.distcp"))
    for name in ("dp2 shared", "tp2 sp", "pp2", "cp2 shared"):
        sizes = [file.stat().st_size for file in sorted((folder / name / "optimizer").glob("*.distcp"))]
        assert len(sizes) == 2, name
        assert max(sizes) < 0.75 * whole, name


if __name__ == "__main__":
    train_cases(Path(sys.argv[1]), int(sys.argv[2]))
