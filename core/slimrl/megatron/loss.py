"""The policy's loss over a micro-batch and the sums its metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slimrl.algorithms.correction import OF_WEIGHTS, Correction, CorrectionRule, correct
from slimrl.algorithms.kl import kl_estimate
from slimrl.algorithms.policy_loss import (
    PolicyLoss,
    cispo_loss,
    clipped_policy_loss,
    off_policy_sequences,
    sequence_policy_loss,
)
from slimrl.algorithms.sft_loss import sft_loss
from slimrl.config.grpo import GrpoConfig
from slimrl.megatron.functions import custom_weights, reduced
from slimrl.megatron.logprob import TokenLogProbs
from slimrl.megatron.micro_batch import MicroBatch
from slimrl.registry.run_hook import RunHookFunction
from slimrl.traits import PolicyLossName

CORRECTION = "correction/"
"""Before the names of sums that `correction_metrics` takes."""


def sft_step_loss(current: TokenLogProbs, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Supervised fine-tuning's part of the step's loss; `nll` is the plain sum over the `tokens` tokens."""
    values = sft_loss(current.log_probs)
    loss = torch.dot(batch.tokens.weights, values)
    detached = values.detach()
    return loss, {"loss": loss.detach(), "nll": detached.sum(), "tokens": torch.tensor(float(len(batch)))}


@dataclass(frozen=True)
class StepLoss:
    """The policy's loss with what the configuration and the estimator choose of it."""

    config: GrpoConfig
    policy_loss: PolicyLossName = "clipped"
    tis: RunHookFunction | None = None
    """The user's importance weights."""
    reducer: RunHookFunction | None = None
    """The user's way to make one number of the policy losses of a micro-batch's tokens."""
    share: float = 0.0
    """What that number is multiplied with in the step's loss."""

    def __call__(self, current: TokenLogProbs, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's part of the step's loss, and sums to make metrics of.

        loss = policy loss - entropy_coef * entropy + kl_loss_coef * KL, each the sum of values times token weights, so
        adding up the micro-batches of a step gives the step's loss. A token that the correction rejects is in none of
        them, but in the weights that the mean is made with. Sums: policy, clipped, masked, kl and entropy are
        weighted, `weight` is their whole weight; the differences to the engine are over `tokens` tokens.
        """
        config, tokens, weights = self.config, batch.tokens, batch.tokens.weights
        detached = current.log_probs.detach()
        old = detached if tokens.old_log_probs is None else tokens.old_log_probs
        own = detached if config.use_rollout_logprobs else old
        policy = self._policy_loss(current.log_probs, old, batch)
        value, is_kept = policy.loss, torch.ones_like(weights)
        mismatch = (own - tokens.engine_log_probs).abs()
        sums = {
            "clipped": torch.dot(weights, policy.is_clipped.float()),
            "entropy": torch.dot(weights, current.entropy.detach()),
            "ppo_kl": torch.dot(weights, old - detached),
            "weight": weights.sum(),
            "mismatch": mismatch.sum(),
            "mismatch_max": mismatch.max(),
            "tokens": torch.tensor(float(len(batch))),
        }
        if config.use_opsm:
            masked = off_policy_sequences(
                current.log_probs, old, tokens.advantages, batch.pack.lengths, delta=config.opsm_delta
            )
            value = value.masked_fill(masked, 0.0)
            sums["masked"] = torch.dot(weights, masked.float())
        if config.use_tis or config.get_mismatch_metrics:
            correction = self._correction(own, batch)
            untold = () if self.tis is None else OF_WEIGHTS  # a function of the user's makes the weights
            sums |= {CORRECTION + name: total for name, total in correction.sums.items() if name not in untold}
            if config.use_tis and self.tis is not None:
                value, is_kept, own_metrics = custom_weights(self.tis, value, own, batch)
                sums |= own_metrics
            elif config.use_tis:
                value, is_kept = value * correction.weights, correction.is_kept.to(weights.dtype)
            weights = weights * is_kept
        if self.reducer is None:
            loss = torch.dot(weights, value)
        else:
            per_token = config.calculate_per_token_loss
            loss = self.share * reduced(self.reducer, value, is_kept, batch.pack.lengths, per_token)
        sums["policy"] = loss.detach()
        if config.entropy_coef:
            loss = loss - config.entropy_coef * torch.dot(weights, current.entropy)
        if config.use_kl_loss and tokens.ref_log_probs is not None:
            unbiased_by = old if config.use_unbiased_kl else None
            estimates = kl_estimate(
                current.log_probs, tokens.ref_log_probs, config.kl_loss_type, old_log_probs=unbiased_by
            )
            divergence = torch.dot(weights, estimates)
            sums["kl"] = divergence.detach()
            if config.kl_loss_coef:
                loss = loss + config.kl_loss_coef * divergence
        sums["loss"] = loss.detach()
        return loss, sums

    def _policy_loss(self, log_probs: Tensor, old: Tensor, batch: MicroBatch) -> PolicyLoss:
        config, advantages = self.config, batch.tokens.advantages
        low = config.eps_clip
        high = low if config.eps_clip_high is None else config.eps_clip_high
        match self.policy_loss:
            case "clipped":
                return clipped_policy_loss(
                    log_probs, old, advantages, eps_clip=low, eps_clip_high=high, eps_clip_c=config.eps_clip_c
                )
            case "gspo":
                return sequence_policy_loss(
                    log_probs,
                    old,
                    advantages,
                    batch.pack.lengths,
                    eps_clip=low,
                    eps_clip_high=high,
                    eps_clip_c=config.eps_clip_c,
                )
            case "cispo":
                return cispo_loss(log_probs, old, advantages, eps_clip=low, eps_clip_high=high)

    def _correction(self, own: Tensor, batch: MicroBatch) -> Correction:
        rule = correction_rule(self.config) if self.tis is None else CorrectionRule(level=None)
        return correct(own, batch.tokens.engine_log_probs, batch.pack.lengths, rule)


def correction_rule(config: GrpoConfig) -> CorrectionRule:
    """What the flags of truncated and masked importance sampling come to."""
    if not config.use_tis:
        return CorrectionRule(level=None)
    return CorrectionRule(
        level=config.tis_level,
        mode=config.tis_mode,
        low=config.tis_clip_low,
        high=config.tis_clip,
        reject_level=config.tis_reject_level,
        reject_low=config.tis_reject_low,
        reject_high=config.tis_reject_high,
        veto=config.tis_veto,
    )
