"""Trainers of several processes against one of a single process: losses, gradient norms, weights, checkpoints.

Process start is what takes time, so one launch for each number of processes trains all its cases. The processes run
this file as a script.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from slimrl import AdvantageInput, Advantages, advantage_traits, gae
from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig, TrainedConfig
from slimrl.config.layout import KEEP_ALL, Layout, Recompute
from slimrl.megatron.functions import TrainFunctions
from slimrl.megatron.tensor_files import TensorReader
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.registry import Options, RunHookFunction
from slimrl.registry.resolve import Resolved
from slimrl.types import TrainBatch

WATCHED = (
    *("train/loss", "train/grad_norm", "train/entropy", "train/kl_loss", "train/opd_reverse_kl"),
    *("critic/value_loss", "critic/grad_norm", "train/correction_ess", "train/opsm_fraction"),
)
FULL, SELECTIVE = Recompute("full", "uniform", 1), Recompute("selective")
STATIC = PerfConfig(micro_batch_size=3)
DYNAMIC = PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=48)
BALANCED = replace(DYNAMIC, balance_data=True, balance_by_flops=True, log_probs_max_tokens_per_gpu=80)
KL_IN_LOSS = GrpoConfig(use_kl_loss=True, kl_loss_coef=0.1, entropy_coef=0.01)
ALL, ADAPTERS = TrainedConfig(), TrainedConfig(lora_rank=3)
KL_IN_REWARDS = GrpoConfig(kl_coef=0.1, calculate_per_token_loss=True)
OLD_WEIGHTS = GrpoConfig(keep_old_actor=True, entropy_coef=0.01)
OF_SAMPLES = GrpoConfig(
    use_tis=True, tis_level="sequence", tis_reject_level="geometric", tis_reject_high=1.0, use_opsm=True, opsm_delta=0.0
)
"""What is made of a sample as a whole."""
TAUGHT = GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=Path("teacher"))


@dataclass(frozen=True)
class Case:
    """A layout and what is trained on it."""

    layout: Layout
    model: str = "dense"
    perf: PerfConfig = DYNAMIC
    grpo: GrpoConfig = KL_IN_LOSS
    recompute: Recompute = KEEP_ALL
    trained: TrainedConfig = ALL
    has_critic: bool = False
    has_reducer: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    is_resumed: bool = False
    """Whether its checkpoint is loaded by one process, and that of one process here."""

    @property
    def alone(self) -> Case:
        """The same of one process, in float32."""
        own = {"trained": self.trained, "has_critic": self.has_critic, "has_reducer": self.has_reducer}
        return Case(Layout(), self.model, grpo=self.grpo, **own)


CASES: Mapping[int, Mapping[str, Case]] = {
    2: {
        "dp2": Case(Layout(2), perf=STATIC, recompute=SELECTIVE),
        "dp2 balanced, distributed optimizer": Case(Layout(2, shares_optimizer=True), perf=BALANCED, is_resumed=True),
        "dp2, kl in the rewards": Case(Layout(2), grpo=KL_IN_REWARDS),
        "dp2 balanced, old weights": Case(Layout(2, shares_optimizer=True), perf=BALANCED, grpo=OLD_WEIGHTS),
        "vpp2, old weights": Case(Layout(2, pipeline_size=2, chunks_per_stage=2), grpo=OLD_WEIGHTS),
        "tp2": Case(Layout(2, tensor_size=2), grpo=KL_IN_REWARDS),
        "tp2 sp": Case(Layout(2, tensor_size=2, is_sequence_parallel=True), is_resumed=True),
        "pp2": Case(Layout(2, pipeline_size=2), perf=STATIC),
        "vpp2": Case(Layout(2, pipeline_size=2, chunks_per_stage=2), is_resumed=True),
        "cp2": Case(Layout(2, context_size=2), recompute=FULL),
        "cp2, ratios of samples": Case(Layout(2, context_size=2), grpo=OF_SAMPLES),
        "pp2, adapters": Case(Layout(2, pipeline_size=2), trained=ADAPTERS, is_resumed=True),
        "cp2, adapters, distributed optimizer": Case(
            Layout(2, context_size=2, shares_optimizer=True), recompute=FULL, trained=ADAPTERS
        ),
        "tp2, adapters": Case(Layout(2, tensor_size=2), trained=ADAPTERS),
        "tp2 sp, adapters": Case(
            Layout(2, tensor_size=2, is_sequence_parallel=True), trained=ADAPTERS, is_resumed=True
        ),
        "tp2 sp, adapters of a fused layer and before a norm": Case(
            Layout(2, tensor_size=2, is_sequence_parallel=True), model="glm4", trained=ADAPTERS, is_resumed=True
        ),
        "tp2 sp, critic and adapters": Case(
            Layout(2, tensor_size=2, is_sequence_parallel=True), trained=ADAPTERS, has_critic=True, is_resumed=True
        ),
        "ep2, critic": Case(Layout(2, expert_size=2), model="experts", has_critic=True),
        "dp2, distributed optimizer, bfloat16": Case(Layout(2, shares_optimizer=True), perf=BALANCED, dtype="bfloat16"),
        "tp2 sp, bfloat16": Case(Layout(2, tensor_size=2, is_sequence_parallel=True), dtype="bfloat16"),
        "tp2 sp, adapters, bfloat16": Case(
            Layout(2, tensor_size=2, is_sequence_parallel=True), trained=ADAPTERS, dtype="bfloat16"
        ),
        "ep2, bfloat16": Case(Layout(2, expert_size=2), model="experts", dtype="bfloat16"),
        "ep2": Case(Layout(2, expert_size=2), model="experts"),
        "tp2 sp, whole experts": Case(Layout(2, tensor_size=2, is_sequence_parallel=True), model="experts"),
        "tp2 sp, whole experts, distributed optimizer": Case(
            Layout(2, tensor_size=2, is_sequence_parallel=True, shares_optimizer=True),
            model="experts",
            is_resumed=True,
        ),
        "dp2, shared experts": Case(Layout(2, expert_tensor_size=2), model="experts"),
        "pp2, a teacher": Case(Layout(2, pipeline_size=2), grpo=TAUGHT),
        "tp2 sp, adapters, a teacher": Case(
            Layout(2, tensor_size=2, is_sequence_parallel=True), grpo=TAUGHT, trained=ADAPTERS
        ),
        "dp2, a reducer": Case(Layout(2), perf=STATIC, has_reducer=True),
        "tp2 sp, latent attention": Case(
            Layout(2, tensor_size=2, expert_tensor_size=2, is_sequence_parallel=True), model="latent"
        ),
    },
    4: {
        "tp2 pp2 sp, full recompute": Case(
            Layout(4, tensor_size=2, pipeline_size=2, is_sequence_parallel=True), recompute=FULL
        ),
        "tp2 pp2, adapters": Case(Layout(4, tensor_size=2, pipeline_size=2), trained=ADAPTERS),
        "tp2 pp2, critic": Case(Layout(4, tensor_size=2, pipeline_size=2), has_critic=True),
        "cp2 tp2": Case(Layout(4, context_size=2, tensor_size=2)),
        "cp2 dp2, a teacher and a reducer": Case(Layout(4, context_size=2), grpo=TAUGHT, has_reducer=True),
        "tp2 sp ep2 pp2, latent attention, adapters": Case(
            Layout(4, tensor_size=2, expert_size=2, pipeline_size=2, is_sequence_parallel=True),
            model="latent",
            trained=ADAPTERS,
        ),
        "ep2 etp2, static": Case(Layout(4, expert_size=2, expert_tensor_size=2), model="experts", perf=STATIC),
        "tp2 sp ep2 etp2": Case(
            Layout(4, tensor_size=2, expert_size=2, expert_tensor_size=2, is_sequence_parallel=True),
            model="experts",
        ),
        "tp2 sp ep2, distributed optimizer": Case(
            Layout(4, tensor_size=2, expert_size=2, is_sequence_parallel=True, shares_optimizer=True),
            model="experts",
            is_resumed=True,
        ),
    },
}


ALONE = list(dict.fromkeys(case.alone for cases in CASES.values() for case in cases.values()))


@dataclass
class Kept:
    """A transport that keeps the weights."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def publish(self, weights: Any, version: int) -> None:
        self.weights = {name: tensor.clone() for name, tensor in weights}


@dataclass(frozen=True)
class Trained:
    """What came out of a case."""

    steps: list[dict[str, float]]
    resumed: list[dict[str, float]]
    """The step after the single process's checkpoint."""
    weights: Mapping[str, torch.Tensor]
    checkpoint: Path


def centred(rewards: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    means = np.bincount(group_ids, rewards) / np.bincount(group_ids)
    return rewards - means[group_ids]


@advantage_traits(compares_group=False, needs_values=True)
def ppo(rollout: AdvantageInput, /) -> Advantages:
    rewards = np.zeros(len(rollout.rollout_log_probs))
    has_tokens = rollout.num_tokens > 0
    rewards[rollout.num_tokens.cumsum()[has_tokens] - 1] = rollout.rewards[has_tokens]
    assert rollout.values is not None
    found = gae(rewards, rollout.values, rollout.num_tokens, gamma=0.9, lambd=0.8)
    return Advantages(found.advantages.astype(np.float32), found.returns.astype(np.float32))


def over_seven(
    total_lengths: list[int], response_lengths: list[int], loss_masks: list[Any], calculate_per_token_loss: bool
) -> Any:
    """Each sample's losses over one and the same number."""
    return lambda x: sum(part.sum() / 7 for part in x.split(response_lengths))


def reducer() -> RunHookFunction:
    found = ("pg_loss_reducer", "mine.py:f", "f", None, None, None, "", "ours", False, None, False)
    return RunHookFunction(Resolved(*found, lambda options: over_seven), Options([]))


def make(case: Case, models: Path, rank: int = 0, meeting: Path | None = None) -> MegatronTrainer:
    trainer = MegatronTrainer(
        CkptConfig(hf_checkpoint=models / case.model),
        ModelConfig(),
        0.8,
        replace(case.grpo, opd_teacher_load=case.grpo.opd_teacher_load and models / case.grpo.opd_teacher_load),
        OptimizerConfig(lr=1e-3, weight_decay=0.1, adam_beta2=0.95, clip_grad=0.5),
        case.perf,
        num_steps_per_rollout=2,
        global_batch_size=64,
        total_steps=10,
        max_staleness=1,
        advantage=ppo if case.has_critic else centred,
        functions=TrainFunctions(reducer=reducer()) if case.has_reducer else None,
        transport=Kept(),
        device="cpu",
        dtype=case.dtype,
        layout=case.layout,
        recompute=case.recompute,
        trained=case.trained,
        rank=rank,
        meeting=meeting,
    )
    trainer.load(None)
    return trainer


def watched(trainer: MegatronTrainer, batches: list[TrainBatch]) -> list[dict[str, float]]:
    reports = [trainer.train(batch).metrics for batch in batches]
    return [{name: report[name] for name in WATCHED if name in report} for report in reports]


def train_cases(folder: Path, rank: int, world_size: int) -> None:
    """What each process does: everything of every case, at the same time as the others."""
    torch.set_num_threads(1)
    *batches, last = pickle.loads((folder / "batches").read_bytes())  # noqa: S301  # the test wrote it
    for name, case in CASES[world_size].items():
        trainer = make(case, folder / "models", rank, folder / f"meeting{world_size}")
        results = {"steps": watched(trainer, batches)}
        if rank == 0:
            trainer.publish(1)
            torch.save(trainer._transport.weights, folder / f"{name}.weights")  # type: ignore[union-attr]
            (folder / name).mkdir()
        else:
            trainer.give_weights()
        trainer.save(folder / name)
        if case.is_resumed:
            trainer.load(folder / "single" / str(ALONE.index(case.alone)))
            results["resumed"] = watched(trainer, [last])
        (folder / f"{name}.{rank}").write_text(json.dumps(results))
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()


def save_models(folder: Path, draw_weights: Callable[..., None]) -> None:
    from transformers import (
        DeepseekV3Config,
        DeepseekV3ForCausalLM,
        Glm4Config,
        Glm4ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    shape: dict[str, Any] = {
        "vocab_size": 83,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
    latent = {
        "num_key_value_heads": 4,
        "q_lora_rank": 12,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 10,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    }
    state = torch.get_rng_state()
    torch.manual_seed(0)
    models = {
        "dense": Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True)),
        "experts": Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, tie_word_embeddings=False)),
        "glm4": Glm4ForCausalLM(Glm4Config(**shape, pad_token_id=0, eos_token_id=0)),
        "latent": DeepseekV3ForCausalLM(DeepseekV3Config(**shape | latent)),
    }
    for name, model in models.items():
        draw_weights(model)
        model.save_pretrained(folder / name)
    for parameter in models["dense"].parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    models["dense"].save_pretrained(folder / "teacher")
    torch.set_rng_state(state)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_batch: Callable[..., TrainBatch],
    draw_weights: Callable[..., None],
) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    save_models(folder / "models", draw_weights)
    (folder / "batches").write_bytes(pickle.dumps([make_batch(seed=seed) for seed in range(4)]))
    (folder / "single").mkdir()
    return folder


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[Case, Trained]:
    """What one process makes of each model and loss; its checkpoints are there before the others look for them."""
    results = {}
    *batches, last = pickle.loads((folder / "batches").read_bytes())  # noqa: S301
    for number, case in enumerate(ALONE):
        trainer = make(case, folder / "models")
        steps = watched(trainer, batches)
        trainer.publish(1)
        checkpoint = folder / "single" / str(number)
        checkpoint.mkdir()
        trainer.save(checkpoint)
        weights = trainer._transport.weights  # type: ignore[union-attr]
        results[case] = Trained(steps, watched(trainer, [last]), weights, checkpoint)
    return results


@pytest.fixture(scope="module", params=[2, 4], ids=["2 processes", "4 processes"])
def launched(
    request: pytest.FixtureRequest, folder: Path, single: dict[Case, Trained], launch: Callable[..., None]
) -> dict[str, list[Trained]]:
    """Of each case what every process reports; the weights are those of the first."""
    size = request.param
    launch(__file__, folder, size, str(size))
    found = {}
    for name in CASES[size]:
        weights = torch.load(folder / f"{name}.weights")
        reports = [json.loads((folder / f"{name}.{rank}").read_text()) for rank in range(size)]
        found[name] = [
            Trained(report["steps"], report.get("resumed", []), weights, folder / name) for report in reports
        ]
    return found


def cases_of(launched: dict[str, list[Trained]], dtype: str = "float32") -> list[tuple[str, Case]]:
    cases = [(name, case) for cases in CASES.values() for name, case in cases.items() if name in launched]
    return [(name, case) for name, case in cases if case.dtype == dtype]


@pytest.mark.timeout(900)
def test_losses_and_gradient_norms_are_those_of_one_process(
    launched: dict[str, list[Trained]], single: dict[Case, Trained]
) -> None:
    for name, case in cases_of(launched):
        expected = single[case.alone].steps
        for trained in launched[name]:
            for step, wanted in zip(trained.steps, expected, strict=True):
                assert step == pytest.approx(wanted, rel=1e-5, abs=1e-5), name


def test_weights_are_put_together_from_all_processes(
    launched: dict[str, list[Trained]], single: dict[Case, Trained]
) -> None:
    for name, case in cases_of(launched):
        weights, expected = launched[name][0].weights, single[case.alone].weights
        assert list(weights) == list(expected), name
        for tensor, wanted in expected.items():
            torch.testing.assert_close(weights[tensor], wanted, rtol=1e-3, atol=2e-4, msg=f"{name}: {tensor}")


def test_in_bfloat16_they_stay_near_those_of_one_process_in_float32(
    launched: dict[str, list[Trained]], single: dict[Case, Trained], folder: Path
) -> None:
    *_, last = pickle.loads((folder / "batches").read_bytes())  # noqa: S301
    for name, case in cases_of(launched, "bfloat16"):
        expected = single[case.alone]
        trainer = make(replace(case.alone, dtype=case.dtype), folder / "models")
        trainer.load(launched[name][0].checkpoint)
        resumed = watched(trainer, [last])
        for trained in launched[name]:
            found = zip([*trained.steps, *resumed], [*expected.steps, *expected.resumed], strict=True)
            for step, wanted in found:
                assert step["train/loss"] == pytest.approx(wanted["train/loss"], abs=0.05), name
                assert step["train/grad_norm"] == pytest.approx(wanted["train/grad_norm"], rel=0.15), name
                assert step["train/entropy"] == pytest.approx(wanted["train/entropy"], rel=0.01), name


def test_a_checkpoint_goes_on_at_another_layout(
    launched: dict[str, list[Trained]], single: dict[Case, Trained], folder: Path
) -> None:
    *_, last = pickle.loads((folder / "batches").read_bytes())  # noqa: S301
    for name, case in cases_of(launched):
        if not case.is_resumed:
            continue
        expected = single[case.alone]
        assert TensorReader(launched[name][0].checkpoint).names() == TensorReader(expected.checkpoint).names()
        trainer = make(case.alone, folder / "models")
        trainer.load(launched[name][0].checkpoint)
        (here,) = watched(trainer, [last])
        assert here == pytest.approx(expected.resumed[0], rel=1e-3, abs=1e-4), name
        for trained in launched[name]:
            assert trained.resumed[0] == pytest.approx(expected.resumed[0], rel=1e-4, abs=1e-5), name


if __name__ == "__main__":
    train_cases(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
