"""How per-token values become one number: the weight of every token in the step's mean."""

from __future__ import annotations

import torch
from torch import Tensor


def token_weights(
    loss_mask: Tensor,
    rollout_index: Tensor,
    *,
    num_rollouts: int,
    per_token: bool,
    tokens_per_rollout: float | None = None,
) -> Tensor:
    """Weight of each token such that `(weights * values).sum()` is the mean over one optimizer step.

    `loss_mask` is [tokens], 0 or 1; `rollout_index` is [tokens], which of the step's `num_rollouts` rollouts a token
    is of (a fan-out's siblings share one). Default: each rollout contributes its masked mean,
    sum(x m) / max(sum m, 1), and rollouts count equally. `per_token`: masked mean over all tokens of the step.
    `tokens_per_rollout`: the sum over all tokens, over num_rollouts times this constant, whatever the lengths are
    (Dr. GRPO; Liu et al. 2025, arXiv:2503.20783, with the longest response's length as the constant).
    Because the weights are fixed before the step is cut up, sums over any micro-batches and ranks add up to the same.
    """
    mask = loss_mask.to(torch.float64)
    if tokens_per_rollout is not None:
        weights = mask / (tokens_per_rollout * max(num_rollouts, 1))
    elif per_token:
        weights = mask / mask.sum().clamp(min=1.0)
    else:
        trained = torch.zeros(num_rollouts, dtype=torch.float64).index_add_(0, rollout_index, mask)
        weights = mask / trained.clamp(min=1.0)[rollout_index] / max(num_rollouts, 1)
    return weights.to(torch.float32)
