"""Per-token estimates of the KL divergence from a reference model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3", "low_var_kl"]
MAX_LOW_VAR_KL = 10.0
MAX_EXPONENT = 80.0


def kl_estimate(
    log_probs: Tensor, reference_log_probs: Tensor, estimator: KlEstimator, *, old_log_probs: Tensor | None = None
) -> Tensor:
    """Estimate KL(policy || reference) for every token from the log-probs of the sampled tokens.

    All inputs and the result are [tokens], natural log. With x = log_probs - reference_log_probs: k1 = x,
    k2 = x^2 / 2, k3 = exp(-x) - 1 + x, low_var_kl = k3 clamped to [-10, 10]
    (Schulman 2020, http://joschu.net/blog/kl-approx.html).

    `old_log_probs`, those of the policy that sampled, asks for the unbiased variant: the estimate is multiplied by
    exp(log_probs - old_log_probs), and the gradient goes through that ratio too. Then value and gradient of k3 are
    those of the true KL in expectation, also for tokens of an older policy (DeepSeek-AI 2025, arXiv:2512.02556,
    section 3.1). low_var_kl clamps the product.
    """
    x = log_probs - reference_log_probs
    match estimator:
        case "k1":
            estimate = x
        case "k2":
            estimate = x.square() / 2
        case "k3":
            estimate = torch.expm1(-x) + x
        case "low_var_kl":
            # an exponential that overflows would give a clamped token NaN for its gradient
            estimate = torch.expm1(-x.clamp(min=-MAX_EXPONENT)) + x
    if old_log_probs is not None:
        estimate = torch.exp(log_probs - old_log_probs) * estimate
    if estimator == "low_var_kl":
        estimate = estimate.clamp(-MAX_LOW_VAR_KL, MAX_LOW_VAR_KL)
    return estimate
