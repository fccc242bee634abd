"""Per-token estimates of the KL divergence from a reference model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3", "low_var_kl"]


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate KL(policy || reference) for every token from the log-probs of the sampled tokens.

    Both inputs and the result are [tokens], natural log. With x = log_probs - reference_log_probs: k1 = x,
    k2 = x^2 / 2, k3 = exp(-x) - 1 + x, low_var_kl = k3 clamped to [-10, 10]
    (Schulman 2020, http://joschu.net/blog/kl-approx.html).
    """
    x = log_probs - reference_log_probs
    match estimator:
        case "k1":
            return x
        case "k2":
            return x.square() / 2
        case "k3":
            return torch.expm1(-x) + x
        case "low_var_kl":
            return (torch.expm1(-x) + x).clamp(-10.0, 10.0)
