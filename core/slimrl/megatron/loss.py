"""The policy's loss over a micro-batch and the sums its metrics are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from slimrl.algorithms.kl import kl_estimate
from slimrl.algorithms.policy_loss import clipped_policy_loss
from slimrl.config.grpo import GrpoConfig
from slimrl.megatron.logprob import TokenLogProbs
from slimrl.megatron.micro_batch import MicroBatch


def policy_step_loss(current: TokenLogProbs, batch: MicroBatch, config: GrpoConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's part of the step's loss, and sums to make metrics of.

    loss = policy loss - entropy_coef * entropy + kl_loss_coef * KL, each the sum of values times token weights, so
    adding up the micro-batches of a step gives the step's loss. Sums: policy, clipped, kl and entropy are
    weighted, `weight` is their whole weight; the differences to the engine are over `tokens` tokens.
    """
    tokens = batch.tokens
    old = current.log_probs.detach() if tokens.old_log_probs is None else tokens.old_log_probs
    policy = clipped_policy_loss(
        current.log_probs,
        old,
        tokens.advantages,
        eps_clip=config.eps_clip,
        eps_clip_high=config.eps_clip if config.eps_clip_high is None else config.eps_clip_high,
    )
    weights = tokens.weights
    loss = torch.dot(weights, policy.loss)
    own = current.log_probs.detach() if config.use_rollout_logprobs else old
    mismatch = (own - tokens.engine_log_probs).abs()
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
    if config.use_kl_loss and tokens.ref_log_probs is not None:
        divergence = torch.dot(weights, kl_estimate(current.log_probs, tokens.ref_log_probs, config.kl_loss_type))
        sums["kl"] = divergence.detach()
        if config.kl_loss_coef:
            loss = loss + config.kl_loss_coef * divergence
    sums["loss"] = loss.detach()
    return loss, sums
