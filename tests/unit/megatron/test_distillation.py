"""On-policy distillation: advantages against a slow version, and a teacher in the trainer against transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from slimrl.config import CkptConfig, GrpoConfig, OptimizerConfig, PerfConfig, TrainedConfig
from slimrl.errors import TrainError
from slimrl.megatron.advantages import advantages_of
from slimrl.megatron.distillation import Distillation
from slimrl.megatron.known import Known
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import Advantages, TrainBatch

from .conftest import given_advantages
from .test_critic import ppo
from .test_lora import same, weights_of

Make = Callable[..., MegatronTrainer]
MakeBatch = Callable[..., TrainBatch]
STILL = OptimizerConfig(lr=0.0)
STEPS = OptimizerConfig(lr=3e-3, weight_decay=0.0, adam_beta2=0.95)


def numbers(batch: TrainBatch, seed: int) -> np.ndarray:
    return -np.random.default_rng(seed).random(len(batch.log_probs)).astype(np.float32)


def of_rewards(rollout: Any) -> Advantages:
    return Advantages(rollout.rewards[rollout.sample_of_token])


@pytest.fixture(scope="module")
def teacher(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Llama with other weights."""
    folder = tmp_path_factory.mktemp("teacher")
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def slow_log_probs(folder: Path, batch: TrainBatch, temperature: float) -> np.ndarray:
    """[response tokens] by one pass of transformers a sample."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    found, start = [], 0
    for prompt, response in zip(batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True):
        tokens = torch.from_numpy(batch.tokens[start : start + prompt + response].astype(np.int64))
        with torch.no_grad():
            logits = model(tokens[None]).logits[0] / temperature
        found += [logits[i - 1].log_softmax(-1)[tokens[i]].item() for i in range(prompt, prompt + response)]
        start += prompt + response
    return np.array(found, np.float32)


def mean_of_samples(batch: TrainBatch, values: np.ndarray) -> np.ndarray:
    """[samples] over trained tokens."""
    means, start = [], 0
    for length in batch.response_lengths.tolist():
        own = [values[start + i] for i in range(length) if batch.loss_mask[start + i]]
        means.append(sum(own) / max(len(own), 1))
        start += length
    return np.array(means)


@pytest.mark.parametrize("takes_engines", [False, True])
def test_a_teacher_lowers_the_advantage_of_tokens_that_it_finds_less_likely(
    make_batch: MakeBatch, takes_engines: bool
) -> None:
    batch = make_batch()
    known = Known(log_probs=numbers(batch, 1), teacher_log_probs=numbers(batch, 2))
    found = advantages_of(batch, of_rewards, known, name="mine", distillation=Distillation(0.7, takes_engines))
    student, place = batch.log_probs if takes_engines else known.log_probs, 0
    assert student is not None and known.teacher_log_probs is not None
    for sample, length in enumerate(batch.response_lengths.tolist()):
        for t in range(place, place + length):
            expected = batch.rewards[sample] - 0.7 * (student[t] - known.teacher_log_probs[t])
            if batch.loss_mask[t]:
                assert found.per_token[t] == pytest.approx(expected, abs=1e-5)
        place += length


def test_advantages_are_whitened_with_the_teachers_part_in_them(make_batch: MakeBatch) -> None:
    batch = make_batch()
    known = Known(log_probs=numbers(batch, 1), teacher_log_probs=numbers(batch, 2))
    found = advantages_of(
        batch, of_rewards, known, name="mine", distillation=Distillation(3.0, False), normalize=True
    ).per_token[batch.loss_mask > 0]
    assert (found.mean(), found.std(ddof=1)) == (pytest.approx(0, abs=1e-5), pytest.approx(1, rel=1e-4))


def test_advantages_that_came_with_the_batch_are_lowered_too(make_batch: MakeBatch) -> None:
    batch = make_batch()
    given = replace(batch, advantages=np.full(len(batch), 2.0, np.float32))
    known = Known(log_probs=numbers(batch, 1), teacher_log_probs=numbers(batch, 1) + np.float32(0.5))
    found = advantages_of(given, of_rewards, known, name="mine", distillation=Distillation(1.0, False))
    np.testing.assert_allclose(found.per_token[batch.loss_mask > 0], 2.5, rtol=1e-5)


@pytest.mark.parametrize("trained", [TrainedConfig(), TrainedConfig(lora_rank=3)], ids=["all", "adapters"])
def test_a_teacher_in_the_trainer_says_what_transformers_says(
    checkpoints: dict[str, Path], teacher: Path, make_trainer: Make, make_batch: MakeBatch, trained: TrainedConfig
) -> None:
    grpo = GrpoConfig(use_opd=True, opd_type="megatron", opd_kl_coef=0.5, opd_teacher_load=teacher)
    trainer = make_trainer(checkpoints["llama"], grpo=grpo, trained=trained, optimizer=STILL, rollout_temperature=0.7)
    before, batch = weights_of(trainer), make_batch()
    report = trainer.train(batch)
    gap = slow_log_probs(checkpoints["llama"], batch, 0.7) - slow_log_probs(teacher, batch, 0.7)
    assert report.metrics["train/opd_reverse_kl"] == pytest.approx(gap[batch.loss_mask > 0].mean(), abs=1e-4)
    expected = np.where(mean_of_samples(batch, np.ones(len(gap))) > 0, batch.rewards, 0.0)
    np.testing.assert_allclose(report.advantages, expected - 0.5 * mean_of_samples(batch, gap), atol=1e-3)
    assert same(weights_of(trainer), before)


@pytest.mark.parametrize("ckpt_format", ["safetensors", "torch_dist"])
def test_a_teacher_may_be_a_checkpoint_of_slimrl(
    checkpoints: dict[str, Path],
    teacher: Path,
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
    ckpt_format: Any,
) -> None:
    saved = CkptConfig(hf_checkpoint=teacher, ckpt_format=ckpt_format)
    make_trainer(teacher, ckpt=saved).save(tmp_path)
    divergences = [
        make_trainer(checkpoints["llama"], grpo=GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=folder))
        .train(make_batch())
        .metrics["train/opd_reverse_kl"]
        for folder in (teacher, tmp_path)
    ]
    assert divergences[0] == divergences[1]


def test_a_teacher_behind_an_engine_is_one_in_the_trainer_with_the_same_answers(
    checkpoints: dict[str, Path], teacher: Path, make_trainer: Make, make_batch: MakeBatch
) -> None:
    batch = make_batch()
    inside = GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=teacher)
    outside = GrpoConfig(use_opd=True, opd_type="sglang", opd_teacher_url="http://127.0.0.1:1")
    with_answers = replace(batch, teacher_log_probs=slow_log_probs(teacher, batch, 1.0))
    one, other = make_trainer(checkpoints["llama"], grpo=inside), make_trainer(checkpoints["llama"], grpo=outside)
    found, expected = one.train(batch), other.train(with_answers)
    np.testing.assert_allclose(found.advantages, expected.advantages, atol=1e-3)
    for name in ("train/loss", "train/grad_norm", "train/opd_reverse_kl"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-3), name
    with pytest.raises(TrainError, match="came without teacher_log_probs"):
        other.train(batch)


def test_a_critic_learns_the_returns_of_the_rewards_alone(
    checkpoints: dict[str, Path], teacher: Path, make_trainer: Make, make_batch: MakeBatch
) -> None:
    batch, optimizer = make_batch(), OptimizerConfig(lr=0.0, critic_lr=1e-3)
    taught = GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=teacher)
    plain, found = (
        make_trainer(checkpoints["llama"], grpo=grpo, optimizer=optimizer, advantage=ppo).train(batch)
        for grpo in (GrpoConfig(), taught)
    )
    gap = slow_log_probs(checkpoints["llama"], batch, 1.0) - slow_log_probs(teacher, batch, 1.0)
    np.testing.assert_allclose(found.advantages, plain.advantages - mean_of_samples(batch, gap), atol=1e-3)
    for name in ("critic/value_loss", "critic/return_mean", "critic/grad_norm"):
        assert found.metrics[name] == pytest.approx(plain.metrics[name]), name


def test_without_any_reward_the_policy_comes_nearer_to_the_teacher(
    checkpoints: dict[str, Path], teacher: Path, make_trainer: Make, make_batch: MakeBatch
) -> None:
    """The true reverse KL over the vocabulary falls, where each step is on tokens drawn by the policy as it is."""
    grpo = GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=teacher, calculate_per_token_loss=True)
    perf = PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=4096)
    trainer = make_trainer(
        checkpoints["llama"], grpo=grpo, optimizer=STEPS, perf=perf, advantage=given_advantages, global_batch_size=256
    )
    prompts = make_batch(groups=8, samples=1)
    divergences = []
    for step in range(25):
        batch = drawn(prompts, dict(weights_of(trainer)), checkpoints["llama"], seed=step)
        divergences.append(trainer.train(batch).metrics["train/opd_reverse_kl"])
    assert np.mean(divergences[-3:]) < 0.6 * np.mean(divergences[:3]), divergences


def drawn(prompts: TrainBatch, weights: dict[str, torch.Tensor], folder: Path, *, seed: int) -> TrainBatch:
    """One token after each prompt, 32 times, drawn by the model with these weights; the rewards are zero."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.load_state_dict(weights, strict=False)
    generator, start = torch.Generator().manual_seed(seed), 0
    tokens, lengths, log_probs = [], [], []
    for number, length in enumerate(prompts.prompt_lengths.tolist()):
        prompt = torch.from_numpy(prompts.tokens[start : start + length].astype(np.int64))
        start += length + int(prompts.response_lengths[number])
        with torch.no_grad():
            said = model(prompt[None]).logits[0, -1].log_softmax(-1)
        for token in torch.multinomial(said.exp(), 32, replacement=True, generator=generator).tolist():
            tokens += [*prompt.tolist(), token]
            lengths.append(length)
            log_probs.append(said[token].item())
    count = len(lengths)
    return TrainBatch(
        step=seed,
        tokens=np.array(tokens, np.int32),
        prompt_lengths=np.array(lengths, np.int32),
        response_lengths=np.ones(count, np.int32),
        loss_mask=np.ones(count, np.uint8),
        log_probs=np.array(log_probs, np.float32),
        weight_versions=np.zeros(count, np.int32),
        rewards=np.zeros(count, np.float32),
        group_ids=np.arange(count) // 32,
        rollout_ids=np.arange(count),
        sample_ids=np.arange(count),
    )
