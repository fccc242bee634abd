"""Whole optimizer steps against a slow version: transformers, one sample at a time, torch's AdamW, double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from slimrl.config import GrpoConfig, OptimizerConfig, PerfConfig
from slimrl.errors import TrainError
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.traits import advantage_traits
from slimrl.types import TrainBatch

ADAM = OptimizerConfig(lr=5e-4, weight_decay=0.1, adam_beta2=0.95, clip_grad=0.5)


class SlowTrainer:
    """What the trainer should do, written for reading."""

    def __init__(
        self,
        checkpoint: Path,
        grpo: GrpoConfig,
        optimizer: OptimizerConfig,
        temperature: float,
        policy_loss: str = "clipped",
        divisor: float | None = None,
    ) -> None:
        self.policy_loss, self.divisor = policy_loss, divisor
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint).double()
        self.reference = AutoModelForCausalLM.from_pretrained(checkpoint).double()
        self.grpo, self.config, self.temperature = grpo, optimizer, temperature
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        betas = (optimizer.adam_beta1, optimizer.adam_beta2)
        self.optimizer = torch.optim.AdamW(
            groups, lr=optimizer.lr, betas=betas, eps=optimizer.adam_eps, weight_decay=optimizer.weight_decay
        )

    def log_probs(self, model: Any, tokens: np.ndarray, prompt_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.from_numpy(tokens.astype(np.int64))
        log_p = (model(ids[None]).logits[0, prompt_length - 1 : -1] / self.temperature).log_softmax(-1)
        return log_p.gather(-1, ids[prompt_length:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)

    def train(self, batch: TrainBatch, advantages: np.ndarray, num_steps: int) -> list[dict[str, float]]:
        starts = np.concatenate(([0], (batch.prompt_lengths + batch.response_lengths).cumsum()))
        masks = np.split(batch.loss_mask, batch.response_lengths.cumsum()[:-1])
        samples = [
            (batch.tokens[a:b], int(p)) for a, b, p in zip(starts[:-1], starts[1:], batch.prompt_lengths, strict=True)
        ]
        with torch.no_grad():
            old = [self.log_probs(self.model, *sample)[0] for sample in samples]
            if self.grpo.use_rollout_logprobs:
                old = list(torch.from_numpy(batch.log_probs).double().split(batch.response_lengths.tolist()))
            reference = [self.log_probs(self.reference, *sample)[0] for sample in samples]
        rollouts = list(dict.fromkeys(batch.rollout_ids.tolist()))
        metrics = []
        for mine in np.array_split(rollouts, num_steps):
            self.optimizer.zero_grad()
            numerators = dict.fromkeys(mine.tolist(), torch.tensor(0.0, dtype=torch.float64))
            counts = dict.fromkeys(mine.tolist(), 0)
            for i, sample in enumerate(samples):
                rollout = int(batch.rollout_ids[i])
                if rollout not in counts:
                    continue
                new, entropy = self.log_probs(self.model, *sample)
                mask = torch.from_numpy(masks[i].astype(np.float32))
                value = self.policy(new, old[i], float(advantages[i]), mask)
                engine = torch.from_numpy(np.split(batch.log_probs, batch.response_lengths.cumsum()[:-1])[i]).double()
                kept = 1.0
                if self.grpo.use_tis:
                    weight, kept = self.correction(old[i] - engine, mask)
                    value = value * weight * kept
                x = new - reference[i]
                kl = {"k1": x, "k2": x * x / 2, "k3": (-x).exp() - 1 + x}
                if self.grpo.use_unbiased_kl:
                    kl = {name: (new - old[i]).exp() * estimate for name, estimate in kl.items()}
                kl["low_var_kl"] = kl["k3"].clamp(-10, 10)
                if self.grpo.use_kl_loss:
                    value = value + kept * self.grpo.kl_loss_coef * kl[self.grpo.kl_loss_type]
                value = value - kept * self.grpo.entropy_coef * entropy
                numerators[rollout] = numerators[rollout] + (value * mask).sum()
                counts[rollout] += int(masks[i].sum())
            if self.divisor:
                loss = torch.stack(list(numerators.values())).sum() / self.divisor / len(counts)
            elif self.grpo.calculate_per_token_loss:
                loss = torch.stack(list(numerators.values())).sum() / sum(counts.values())
            else:
                loss = torch.stack([numerators[r] / max(counts[r], 1) for r in counts]).mean()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad or float("inf"))
            self.optimizer.step()
            metrics.append({"loss": loss.item(), "grad_norm": norm.item()})
        return metrics

    def policy(self, new: torch.Tensor, old: torch.Tensor, advantage: float, mask: torch.Tensor) -> torch.Tensor:
        difference = new - old
        if self.policy_loss == "gspo":
            difference = ((difference * mask).sum() / mask.sum().clamp(min=1)).expand_as(difference)
        ratio = difference.exp()
        clipped = ratio.clamp(1 - self.grpo.eps_clip, 1 + (self.grpo.eps_clip_high or self.grpo.eps_clip))
        if self.policy_loss == "cispo":
            value = -clipped.detach() * advantage * new
        else:
            value = -torch.minimum(ratio * advantage, clipped * advantage)
            if self.grpo.eps_clip_c and advantage < 0:
                value = value.clamp(max=-self.grpo.eps_clip_c * advantage)
        drift = float(((old - new.detach()) * mask).sum() / mask.sum().clamp(min=1))
        if self.grpo.use_opsm and advantage < 0 and drift > self.grpo.opsm_delta:
            value = value * 0
        return value

    def correction(self, difference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, count = (difference * mask).sum(), mask.sum().clamp(min=1)
        ratios = {
            "token": difference,
            "sequence": total.expand_as(difference),
            "geometric": (total / count).expand_as(difference),
        }
        weight = ratios[self.grpo.tis_level].exp()
        low, high = self.grpo.tis_clip_low, self.grpo.tis_clip
        if self.grpo.tis_mode == "mask":
            weight = weight * ((weight >= low) & (weight <= high))
        else:
            weight = weight.clamp(low if self.grpo.tis_mode == "clip" else 0.0, high)
        kept = torch.ones_like(difference)
        if self.grpo.tis_reject_level:
            ratio = ratios[self.grpo.tis_reject_level].exp()
            kept = ((ratio >= self.grpo.tis_reject_low) & (ratio <= self.grpo.tis_reject_high)).double()
        if bool(((difference.exp() < self.grpo.tis_veto) & (mask > 0)).any()):
            kept = kept * 0
        return weight.detach(), kept


def compare(
    make_trainer: Callable[..., MegatronTrainer],
    checkpoint: Path,
    batches: list[TrainBatch],
    *,
    grpo: GrpoConfig,
    num_steps: int = 1,
    temperature: float = 1.0,
    policy_loss: str = "clipped",
    divisor: int | None = None,
    **kwargs: Any,
) -> None:
    @advantage_traits(policy_loss=policy_loss, divides_by_max_length=divisor is not None)
    def given(rewards: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
        return rewards

    trainer = make_trainer(
        checkpoint,
        grpo=grpo,
        optimizer=ADAM,
        num_steps_per_rollout=num_steps,
        rollout_temperature=temperature,
        advantage=given,
        max_response_len=divisor,
        **kwargs,
    )
    slow = SlowTrainer(checkpoint, grpo, ADAM, temperature, policy_loss, divisor)
    for batch in batches:
        metrics = trainer.train(batch).metrics
        expected = slow.train(batch, batch.rewards, num_steps)
        mean_loss = np.mean([step["loss"] for step in expected])
        assert metrics["train/loss"] == pytest.approx(mean_loss, abs=1e-5)
        assert metrics["train/grad_norm"] == pytest.approx(np.mean([s["grad_norm"] for s in expected]), rel=1e-4)
    state = slow.model.state_dict()
    for name, tensor in trainer.export_weights():
        # Adam turns rounding into steps of up to lr where a gradient is next to nothing.
        assert (tensor - state[name]).abs().mean() < 1e-6, name


VARIANTS = {
    "plain": {},
    "clip-higher": {"eps_clip": 0.02, "eps_clip_high": 0.3},
    "per-token": {"calculate_per_token_loss": True},
    "entropy": {"entropy_coef": 0.1},
    "engine-log-probs": {"use_rollout_logprobs": True},
    "k1": {"use_kl_loss": True, "kl_loss_coef": 0.3, "kl_loss_type": "k1"},
    "k2": {"use_kl_loss": True, "kl_loss_coef": 0.3, "kl_loss_type": "k2"},
    "k3": {"use_kl_loss": True, "kl_loss_coef": 0.3, "kl_loss_type": "k3"},
    "low_var_kl": {"use_kl_loss": True, "kl_loss_coef": 0.3, "kl_loss_type": "low_var_kl", "entropy_coef": 0.05},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_steps_equal_the_slow_version(
    variant: str,
    num_steps: int,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    batches = [make_batch(0), make_batch(1)]
    compare(make_trainer, checkpoints["llama"], batches, grpo=GrpoConfig(**VARIANTS[variant]), num_steps=num_steps)


CORRECTIONS = {
    "dual-clip": {"eps_clip_c": 1.1, "use_rollout_logprobs": True},
    "opsm": {"use_opsm": True, "opsm_delta": 0.0, "use_rollout_logprobs": True},
    "unbiased-kl": {"use_kl_loss": True, "kl_loss_coef": 0.3, "kl_loss_type": "k3", "use_unbiased_kl": True},
    "tis": {"use_tis": True, "tis_clip": 1.2, "tis_clip_low": 0.6, "entropy_coef": 0.1},
    "icepop": {"use_tis": True, "tis_clip": 2.0, "tis_clip_low": 0.5, "tis_mode": "mask"},
    "mis": {
        "use_tis": True,
        "tis_level": "geometric",
        "tis_mode": "truncate",
        "tis_reject_level": "token",
        "tis_veto": 0.01,
    },
    "mis-sequence": {"use_tis": True, "tis_level": "sequence", "tis_reject_level": "geometric", "tis_reject_high": 1.1},
}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections_equal_the_slow_version(
    name: str,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    batches = [make_batch(0), make_batch(1)]
    compare(make_trainer, checkpoints["llama"], batches, grpo=GrpoConfig(**CORRECTIONS[name]), num_steps=2)


@pytest.mark.parametrize("policy_loss", ["gspo", "cispo"])
@pytest.mark.parametrize("use_rollout_logprobs", [False, True])
def test_policy_losses_of_estimators_equal_the_slow_version(
    policy_loss: str,
    use_rollout_logprobs: bool,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    grpo = GrpoConfig(use_rollout_logprobs=use_rollout_logprobs, eps_clip=0.1, eps_clip_high=0.3)
    compare(make_trainer, checkpoints["llama"], [make_batch(0)], grpo=grpo, num_steps=2, policy_loss=policy_loss)


def test_a_loss_may_be_divided_by_the_longest_response_there_may_be(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    compare(make_trainer, checkpoints["llama"], [make_batch(0)], grpo=GrpoConfig(), num_steps=2, divisor=12)


def test_log_prob_passes_may_be_larger_and_give_the_same(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    perf = PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=40, log_probs_max_tokens_per_gpu=400)
    grpo = GrpoConfig(use_kl_loss=True, kl_loss_coef=0.1, kl_loss_type="k3")
    compare(make_trainer, checkpoints["llama"], [make_batch(0)], grpo=grpo, num_steps=2, perf=perf)


def test_samples_that_no_micro_batch_has_room_for_are_counted(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    from slimrl.megatron.micro_batch import trained_samples  # imports Megatron, which trainers here prepare first

    batch = make_batch(0)
    lengths = [len(sample.inputs) for sample in trained_samples(batch) if len(sample.targets)]
    for limit in (min(lengths) - 1, sorted(lengths)[4], max(lengths)):
        perf = PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=limit)
        metrics = make_trainer(checkpoints["llama"], grpo=GrpoConfig(entropy_coef=0.1), perf=perf).train(batch).metrics
        assert metrics["train/num_over_long_samples"] == sum(length > limit for length in lengths)


@pytest.mark.parametrize("family", ["llama-tied", "qwen2", "qwen3-tied"])
def test_other_families_equal_the_slow_version(
    family: str,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    compare(make_trainer, checkpoints[family], [make_batch(0), make_batch(1)], grpo=GrpoConfig(entropy_coef=0.01))


def test_temperature_divides_the_logits(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    grpo = GrpoConfig(entropy_coef=0.1)
    compare(make_trainer, checkpoints["llama"], [make_batch(0)], grpo=grpo, temperature=0.7, num_steps=2)


@pytest.mark.parametrize(
    "perf",
    [
        PerfConfig(share_prefixes=False),
        PerfConfig(micro_batch_size=1),
        PerfConfig(micro_batch_size=3),
        PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=40),
    ],
)
def test_how_a_batch_is_cut_changes_nothing(
    perf: PerfConfig,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    grpo = GrpoConfig(use_kl_loss=True, kl_loss_coef=0.1, kl_loss_type="k3")
    compare(make_trainer, checkpoints["llama"], [make_batch(0)], grpo=grpo, num_steps=2, perf=perf)


def test_skipping_samples_without_advantage_changes_nothing(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    advantages = [0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    batches = [make_batch(0, advantages=advantages), make_batch(1, advantages=[0.0] * 16), make_batch(2)]
    compare(make_trainer, checkpoints["llama"], batches, grpo=GrpoConfig(), num_steps=2)


def test_sgd_moves_against_the_clipped_gradient(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    config = OptimizerConfig(optimizer="sgd", lr=0.1, weight_decay=0.0, sgd_momentum=0.0, clip_grad=0.5)
    trainer = make_trainer(checkpoints["llama"], optimizer=config)
    before = {name: tensor.clone() for name, tensor in trainer.export_weights()}
    trainer.train(make_batch(0))
    moved = sum(float((tensor - before[name]).square().sum()) for name, tensor in trainer.export_weights()) ** 0.5
    assert moved == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_an_advantage_of_another_shape_is_refused(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    trainer = make_trainer(checkpoints["llama"], advantage=lambda rewards, group_ids: rewards[:1])
    with pytest.raises(TrainError, match=r"'grpo' returned shape \(1,\) for 16 samples"):
        trainer.train(make_batch(0))


def test_an_infinite_advantage_names_estimator_and_sample(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    trainer = make_trainer(checkpoints["llama"])
    with pytest.raises(TrainError, match=r"step 0: advantage estimator 'grpo' .* not finite to sample 3"):
        trainer.train(make_batch(0, advantages=[0, 0, 0, float("inf"), *[0] * 12]))


def test_a_loss_that_is_not_finite_names_step_and_metric_and_keeps_the_weights(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    trainer = make_trainer(checkpoints["llama"])
    before = {name: tensor.clone() for name, tensor in trainer.export_weights()}
    with pytest.raises(TrainError, match=r"step 0, optimizer step 0: train/(loss|pg_loss|grad_norm) is (inf|nan)"):
        trainer.train(make_batch(0, advantages=[3e38, 3e38, -3e38, 3e38, *[3e38] * 12]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.export_weights())


def test_metrics_say_what_was_computed(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    batch = make_batch(0, advantages=[0.0] * 8 + [1.0, -1.0] * 4)
    report = make_trainer(checkpoints["llama"]).train(batch)
    metrics = report.metrics
    assert metrics["train/num_samples"] == 16
    assert metrics["train/num_skipped_samples"] == 8
    assert metrics["train/num_computed_tokens"] < metrics["train/num_input_tokens"]
    assert 0 < metrics["train/entropy"] < np.log(83)
    assert metrics["train/log_prob_abs_diff"] <= metrics["train/log_prob_abs_diff_max"]
    assert metrics["train/ppo_kl"] == metrics["train/clip_fraction"] == 0.0
    assert metrics["train/lr"] == 1e-2
    assert report.advantages.tolist() == batch.rewards.tolist()
    assert all(isinstance(value, float) for value in metrics.values())


def test_engine_log_probs_are_compared_with_the_trainers(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    batch = make_batch(0)
    slow = SlowTrainer(checkpoints["llama"], GrpoConfig(), ADAM, 1.0)
    starts = np.concatenate(([0], (batch.prompt_lengths + batch.response_lengths).cumsum()))
    exact = [
        slow.log_probs(slow.model, batch.tokens[a:b], int(p))[0].detach().numpy()
        for a, b, p in zip(starts[:-1], starts[1:], batch.prompt_lengths, strict=True)
    ]
    from_engine = replace(batch, log_probs=np.concatenate(exact).astype(np.float32) + np.float32(0.25))
    for grpo in (GrpoConfig(), GrpoConfig(use_rollout_logprobs=True)):
        metrics = make_trainer(checkpoints["llama"], grpo=grpo).train(from_engine).metrics
        assert metrics["train/log_prob_abs_diff"] == pytest.approx(0.25, abs=1e-4)
        assert metrics["train/log_prob_abs_diff_max"] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("perf", [PerfConfig(), PerfConfig(micro_batch_size=3)], ids=["whole", "cut"])
def test_fine_tuning_lowers_the_mean_negative_log_likelihood(
    per_token: bool,
    perf: PerfConfig,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    batch = replace(make_batch(0), advantages=np.ones(16, np.float32), rollout_ids=np.arange(16))
    grpo = GrpoConfig(loss_type="sft_loss", calculate_per_token_loss=per_token)
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).double()
    losses, start = [], 0
    for prompt, length in zip(batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True):
        ids = torch.from_numpy(batch.tokens[start : start + prompt + length].astype(np.int64))
        log_p = model(ids[None]).logits[0, prompt - 1 : -1].log_softmax(-1).gather(-1, ids[prompt:, None])[:, 0]
        place = len(torch.cat(losses)) if losses else 0
        losses.append(-log_p * torch.from_numpy(batch.loss_mask[place : place + length].astype(np.float64)))
        start += prompt + length
    counts = [int(mask.sum()) for mask in np.split(batch.loss_mask, batch.response_lengths.cumsum()[:-1])]
    every_token = torch.cat(losses).sum() / sum(counts)
    means = torch.stack([loss.sum() / max(count, 1) for loss, count in zip(losses, counts, strict=True)])
    loss = every_token if per_token else means.mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    metrics = make_trainer(checkpoints["llama"], grpo=grpo, perf=perf).train(batch).metrics
    assert metrics["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["train/perplexity"] == pytest.approx(every_token.exp().item(), rel=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_an_empty_prompt_is_refused(
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    batch = make_batch(0)
    lengths = batch.prompt_lengths.copy()
    lengths[2], batch.response_lengths[2] = 0, batch.response_lengths[2] + lengths[2]
    with pytest.raises(TrainError, match="sample 2 has an empty prompt"):
        make_trainer(checkpoints["llama"]).train(replace(batch, prompt_lengths=lengths))
