"""The loss of a critic, per token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ValueLoss(NamedTuple):
    """What every token contributes; both [tokens]."""

    loss: Tensor
    is_clipped: Tensor
    """Bool: the clipped error is the larger one, so the token gives no gradient."""


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip: float) -> ValueLoss:
    """The squared error of a critic that may move by `value_clip` from its values before the rollout's first step.

    All tensors are [tokens]. loss = max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), without a factor of one half
    (the value clipping of OpenAI Baselines' PPO; Engstrom et al. 2020, arXiv:2005.12729).
    """
    plain = (values - returns).square()
    clipped = (values.clamp(old_values - value_clip, old_values + value_clip) - returns).square()
    return ValueLoss(torch.maximum(plain, clipped), clipped > plain)


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 - variance of the error / variance of the returns; both [tokens].

    1 is a critic that knows the returns, 0 one that knows their mean; None where all returns are equal.
    """
    spread = returns.double().var(correction=0)
    if not spread > 0:
        return None
    return float(1 - (returns - values).double().var(correction=0) / spread)
