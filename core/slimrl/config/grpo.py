"""GRPO_ARGS: advantages and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GrpoConfig:
    """Advantage estimation and the policy loss."""

    advantage_estimator: str = "grpo"
    """Advantage estimator: a name an installed plugin offers."""
    disable_grpo_std_normalization: bool = False
    """Only centre the rewards of a group; do not divide by their standard deviation (grpo, gspo, cispo)."""
    kl_coef: float = 0.0
    """Weight of the KL divergence from the reference model (--kl-loss-type) in the rewards, for estimators that heed it."""
    gamma: float = 1.0
    """Discount of later rewards, for estimators that heed it."""
    lambd: float = 1.0
    """Lambda of generalised advantage estimation, for estimators that heed it."""
    normalize_advantages: bool = False
    """Whiten the advantages over all trained tokens of a rollout: mean 0, standard deviation 1."""
    eps_clip: float = 0.2
    """Clip range of the probability ratio below 1."""
    eps_clip_high: float | None = None
    """Clip range of the probability ratio above 1. Default: --eps-clip."""
    use_rollout_logprobs: bool | None = None
    """Take the engine's log-probs for the old policy's, as the importance ratio needs for tokens of older weights. Default: on with --async and with --partial-rollout; else the trainer's own."""
    use_kl_loss: bool = False
    """Measure the KL divergence from the reference model; it joins the loss with --kl-loss-coef above 0."""
    kl_loss_coef: float = 0.0
    """Weight of the KL divergence in the loss; 0 only monitors it."""
    kl_loss_type: Literal["k1", "k2", "k3", "low_var_kl"] = "k1"
    """Estimator of the KL divergence (Schulman 2020); low_var_kl is k3 clamped to [-10, 10]."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the loss."""
    calculate_per_token_loss: bool = False
    """Average the loss over all tokens instead of over rollouts."""
