"""--keep-old-actor against transformers: old log-probs are those of the weights that generated each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from slimrl import AdvantageInput
from slimrl.config import GrpoConfig, TrainedConfig
from slimrl.megatron.compat import prepare_megatron
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

Make = Callable[..., MegatronTrainer]
MakeBatch = Callable[..., TrainBatch]
Weights = dict[str, torch.Tensor]
STALENESS = 2


def weights_of(trainer: MegatronTrainer) -> Weights:
    return {name: tensor.clone() for name, tensor in trainer.export_weights()}


@torch.no_grad()
def log_probs_of(checkpoint: Path, weights: Weights, batch: TrainBatch) -> np.ndarray:
    """Of all response tokens, one sample at a time."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.load_state_dict(weights, strict=False)
    found, start = [], 0
    for prompt, response in zip(batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True):
        ids = torch.from_numpy(batch.tokens[start : start + prompt + response].astype(np.int64))
        log_p = model(ids[None]).logits[0, prompt - 1 : -1].log_softmax(-1)
        found.append(log_p.gather(-1, ids[prompt:, None])[:, 0])
        start += prompt + response
    return torch.cat(found).numpy()


def mixed(batch: TrainBatch, rng: np.random.Generator) -> TrainBatch:
    """The batch with tokens of all versions that there may be."""
    oldest = max(0, batch.step - STALENESS)
    versions = rng.integers(oldest, batch.step + 1, len(batch.log_probs)).astype(np.int32)
    return replace(batch, weight_versions=versions)


def old_log_probs(checkpoint: Path, versions: list[Weights], batch: TrainBatch) -> np.ndarray:
    """Each token's under the weights of its version."""
    old = np.zeros_like(batch.log_probs)
    for version in np.unique(batch.weight_versions):
        said = log_probs_of(checkpoint, versions[version], batch)
        old = np.where(batch.weight_versions == version, said, old)
    return old


@pytest.mark.parametrize("trained", [TrainedConfig(), TrainedConfig(lora_rank=2)], ids=["weights", "adapters"])
@pytest.mark.parametrize("num_steps", [1, 2])
def test_old_log_probs_are_those_of_the_weights_that_generated_each_token(
    num_steps: int, trained: TrainedConfig, checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    """A trainer that is told them as the engine's makes the same steps."""
    family, settings = checkpoints["llama"], {"num_steps_per_rollout": num_steps, "trained": trained}
    keeping = make_trainer(family, grpo=GrpoConfig(keep_old_actor=True), max_staleness=STALENESS, **settings)
    told = make_trainer(family, grpo=GrpoConfig(use_rollout_logprobs=True), **settings)
    versions: list[Weights] = []
    rng = np.random.default_rng(0)
    for step in range(5):
        batch = mixed(make_batch(step), rng)
        versions.append(weights_of(keeping))
        found = keeping.train(batch).metrics
        expected = told.train(replace(batch, log_probs=old_log_probs(family, versions, batch))).metrics
        for name in ("train/loss", "train/grad_norm", "train/ppo_kl", "train/clip_fraction"):
            # Adam makes more of rounding with every step
            assert found[name] == pytest.approx(expected[name], rel=3e-3, abs=2e-5), name
        assert (abs(found["train/ppo_kl"]) > 1e-3) == (step > 0 or num_steps > 1)


def test_an_estimator_that_takes_log_probs_gets_those_of_the_weights_that_generated(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    seen: list[AdvantageInput] = []

    def remembering(rollout: AdvantageInput, /) -> np.ndarray:
        seen.append(rollout)
        return rollout.rewards

    trainer = make_trainer(
        checkpoints["llama"],
        grpo=GrpoConfig(keep_old_actor=True, kl_coef=0.1),
        max_staleness=STALENESS,
        advantage=remembering,
    )
    versions: list[Weights] = []
    for step in range(3):
        batch = mixed(make_batch(step), np.random.default_rng(step))
        versions.append(weights_of(trainer))
        trainer.train(batch)
        is_trained = batch.loss_mask > 0
        expected = old_log_probs(checkpoints["llama"], versions, batch)
        assert seen[-1].log_probs is not None
        assert seen[-1].log_probs == pytest.approx(expected[is_trained], abs=1e-4)


def test_only_generations_that_tokens_may_be_of_are_kept(make_batch: MakeBatch) -> None:
    prepare_megatron(torch.device("cpu"))
    from slimrl.megatron.generations import Generations

    weight = torch.nn.Parameter(torch.zeros(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    generations = Generations({"weight": weight, "frozen": frozen}, 1)
    for step in range(4):
        weight.data.fill_(step)
        generations.keep(step)
    assert generations._kept.keys() == {2, 3}
    assert all(weights.keys() == {"weight"} for weights in generations._kept.values())
    batch = make_batch(3)
    versions = np.arange(len(batch.log_probs), dtype=np.int32) % 4
    seen = []
    for model, is_of_it in generations.of(replace(batch, weight_versions=versions)):
        with model:
            # those whose weights are gone are counted to the oldest that are there
            expected = torch.from_numpy(np.maximum(versions, 2)) == float(weight.data[0])
            assert torch.equal(is_of_it, expected)
            seen.append(float(weight.data[0]))
    assert seen == [2, 3]
    assert float(weight.data[0]) == 3
