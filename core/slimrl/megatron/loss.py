"""The GRPO loss of a micro-batch and the sums its metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slimrl.algorithms.kl import kl_estimate
from slimrl.algorithms.policy_loss import clipped_policy_loss
from slimrl.config.grpo import GrpoConfig
from slimrl.megatron.logprob import TokenLogProbs
from slimrl.megatron.micro_batch import MicroBatch


@dataclass(frozen=True)
class FixedLogProbs:
    """Log-probs of a micro-batch's tokens that a step does not change; [trained tokens] each."""

    old: Tensor | None = None
    """Of the policy before the rollout's first optimizer step, or of those that sampled; None: the current ones."""
    reference: Tensor | None = None


def grpo_loss(
    current: TokenLogProbs, batch: MicroBatch, fixed: FixedLogProbs, config: GrpoConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's part of the step's loss, and sums to make metrics of.

    loss = policy loss - entropy_coef * entropy + kl_loss_coef * KL, each the sum of values times token weights, so
    adding up the micro-batches of a step gives the step's loss. Sums: policy, clipped, kl and entropy are
    weighted, `weight` is their whole weight; the differences to the engine are over `tokens` tokens.
    """
    old = current.log_probs.detach() if fixed.old is None else fixed.old
    policy = clipped_policy_loss(
        current.log_probs,
        old,
        batch.advantages,
        eps_clip=config.eps_clip,
        eps_clip_high=config.eps_clip if config.eps_clip_high is None else config.eps_clip_high,
    )
    weights = batch.weights
    loss = torch.dot(weights, policy.loss)
    own = current.log_probs.detach() if config.use_rollout_logprobs else old
    mismatch = (own - batch.engine_log_probs).abs()
    sums = {
        "policy": loss.detach(),
        "clipped": torch.dot(weights, policy.is_clipped.float()),
        "entropy": torch.dot(weights, current.entropy.detach()),
        "ppo_kl": torch.dot(weights, old - current.log_probs.detach()),
        "weight": weights.sum(),
        "mismatch": mismatch.sum(),
        "mismatch_max": mismatch.max(),
        "tokens": torch.tensor(float(len(batch))),
    }
    if config.entropy_coef:
        loss = loss - config.entropy_coef * torch.dot(weights, current.entropy)
    if fixed.reference is not None:
        divergence = torch.dot(weights, kl_estimate(current.log_probs, fixed.reference, config.kl_loss_type))
        sums["kl"] = divergence.detach()
        if config.kl_loss_coef:
            loss = loss + config.kl_loss_coef * divergence
    sums["loss"] = loss.detach()
    return loss, sums
