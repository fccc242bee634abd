"""Rewards of single tokens: the divergence from the reference model at each, the sample's reward at its last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, UsageError
from slimrl.config import GrpoConfig


def kl_penalty(rollout: AdvantageInput, config: GrpoConfig) -> NDArray[np.float64]:
    """kl_coef times the KL estimate of every trained token, [tokens]; zero without --kl-coef."""
    if not config.kl_coef:
        return np.zeros(len(rollout.rollout_log_probs))
    if rollout.log_probs is None or rollout.ref_log_probs is None:
        raise UsageError(
            f"--kl-coef {config.kl_coef} needs log-probs of the policy and of the reference model, and there are none "
            "here; slimrl rescore cannot compare the advantages of such a run"
        )
    import torch  # listing the plugins needs neither

    from slimrl import kl_estimate

    log_probs, reference = (torch.tensor(x, dtype=torch.float64) for x in (rollout.log_probs, rollout.ref_log_probs))
    estimate: NDArray[np.float64] = kl_estimate(log_probs, reference, config.kl_loss_type).numpy()
    return config.kl_coef * estimate


def token_rewards(rollout: AdvantageInput, config: GrpoConfig) -> NDArray[np.float64]:
    """Minus the KL penalty at every trained token, plus the sample's reward at its last one, [tokens].

    A sample without trained tokens has no place for its reward.
    """
    rewards = -kl_penalty(rollout, config)
    has_tokens = rollout.num_tokens > 0
    rewards[rollout.num_tokens.cumsum()[has_tokens] - 1] += rollout.rewards[has_tokens]
    return rewards
