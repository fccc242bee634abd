"""Policy-gradient losses, per token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimrl.algorithms.ragged import sample_means, spread


class PolicyLoss(NamedTuple):
    """What every token contributes; both [tokens]."""

    loss: Tensor
    is_clipped: Tensor
    """Bool: the clip decides what the token contributes; but for CISPO it then gives no gradient."""


def clipped_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    eps_clip: float,
    eps_clip_high: float,
    eps_clip_c: float | None = None,
) -> PolicyLoss:
    """PPO's pessimistic surrogate with separate bounds below and above one (clip-higher), and dual clip.

    All tensors are [tokens]. loss = max(-r A, -clip(r, 1 - eps_clip, 1 + eps_clip_high) A) with
    r = exp(log_probs - old_log_probs) (Schulman et al. 2017, arXiv:1707.06347, eq. 7; Yu et al. 2025,
    arXiv:2503.14476). With `eps_clip_c` above 1 the loss of a token with A < 0 is at most -eps_clip_c A, so a
    ratio that exploded does not (Ye et al. 2019, arXiv:1912.09729).
    With old_log_probs = log_probs.detach() the value is -A and the gradient is the plain policy gradient.
    """
    return _clipped(log_probs - old_log_probs, advantages, eps_clip, eps_clip_high, eps_clip_c)


def sequence_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    lengths: Tensor,
    *,
    eps_clip: float,
    eps_clip_high: float,
    eps_clip_c: float | None = None,
) -> PolicyLoss:
    """GSPO: the clipped surrogate with one ratio a sample, the geometric mean of its tokens' ratios.

    All tensors are [tokens], `lengths` is [samples], and all tokens of a sample must be here. Every token has its
    sample's loss, so the mean over a sample's tokens is the paper's term; the gradient goes through the mean
    (Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7).
    """
    mean_log_ratio = sample_means(log_probs - old_log_probs, lengths)
    log_ratio = spread(mean_log_ratio, lengths, len(log_probs))
    return _clipped(log_ratio, advantages, eps_clip, eps_clip_high, eps_clip_c)


def cispo_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, eps_clip: float, eps_clip_high: float
) -> PolicyLoss:
    """CISPO: the plain policy gradient of every token, weighted with its clipped ratio.

    All tensors are [tokens]. loss = -sg(clip(r, 1 - eps_clip, 1 + eps_clip_high)) A log p: a clipped token keeps its
    gradient (MiniMax 2025, arXiv:2506.13585, eq. 4 and 5; there without a lower bound, which is eps_clip = 1).
    """
    ratio = torch.exp(log_probs.detach() - old_log_probs)
    weight = ratio.clamp(1.0 - eps_clip, 1.0 + eps_clip_high)
    return PolicyLoss(-weight * advantages * log_probs, weight != ratio)


def off_policy_sequences(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, lengths: Tensor, *, delta: float
) -> Tensor:
    """Which tokens off-policy sequence masking (OPSM) leaves out of the policy loss; bool [tokens].

    Those with A < 0 in a sample whose mean of old_log_probs - log_probs is above `delta`: what the policy has already
    moved away from is not pushed further (DeepSeek-AI 2025, arXiv:2512.02556, section 3.1). The other tensors are
    [tokens], `lengths` is [samples], and all tokens of a sample must be here.
    """
    drift = sample_means(old_log_probs - log_probs.detach(), lengths)
    return (advantages < 0) & (spread(drift, lengths, len(log_probs)) > delta)


def _clipped(
    log_ratio: Tensor, advantages: Tensor, eps_clip: float, eps_clip_high: float, eps_clip_c: float | None
) -> PolicyLoss:
    if eps_clip_c is not None and eps_clip_c <= 1:
        raise ValueError(f"eps_clip_c is {eps_clip_c}; it must be above 1, or None for no dual clip")
    ratio = torch.exp(log_ratio)
    plain = -ratio * advantages
    clipped = -ratio.clamp(1.0 - eps_clip, 1.0 + eps_clip_high) * advantages
    loss, is_clipped = torch.maximum(plain, clipped), clipped > plain
    if eps_clip_c is not None:
        bound = torch.where(advantages < 0, -eps_clip_c * advantages, torch.inf)
        is_clipped = is_clipped | (bound < loss)
        loss = torch.minimum(loss, bound)
    return PolicyLoss(loss, is_clipped)
