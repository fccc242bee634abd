"""The clipped policy-gradient loss, per token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """What every token contributes; both [tokens]."""

    loss: Tensor
    is_clipped: Tensor
    """Bool: the clipped objective was the larger one, so the token gives no gradient."""


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, eps_clip: float, eps_clip_high: float
) -> PolicyLoss:
    """PPO's pessimistic surrogate with separate bounds below and above one (clip-higher).

    All tensors are [tokens]. loss = max(-r A, -clip(r, 1 - eps_clip, 1 + eps_clip_high) A) with
    r = exp(log_probs - old_log_probs) (Schulman et al. 2017, arXiv:1707.06347; Yu et al. 2025, arXiv:2503.14476).
    With old_log_probs = log_probs.detach() the value is -A and the gradient is the plain policy gradient.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    plain = -ratio * advantages
    clipped = -ratio.clamp(1.0 - eps_clip, 1.0 + eps_clip_high) * advantages
    return PolicyLoss(torch.maximum(plain, clipped), clipped > plain)
