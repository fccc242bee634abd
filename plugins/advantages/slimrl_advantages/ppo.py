"""PPO: generalised advantages from a critic's values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slimrl import (
    AdvantageInput,
    Advantages,
    Factory,
    PluginOptions,
    TokenAdvantage,
    UsageError,
    advantage_traits,
    gae,
    hookimpl,
)
from slimrl.config import GrpoConfig
from slimrl_advantages.token_rewards import token_rewards


def make(options: PluginOptions) -> TokenAdvantage:
    """The estimator that --advantage-estimator ppo names (Schulman et al. 2017, arXiv:1707.06347)."""
    config = options[GrpoConfig]

    @advantage_traits(compares_group=False, heeds={"kl_coef", "gamma", "lambd"}, needs_values=True)
    def ppo(rollout: AdvantageInput, /) -> Advantages:
        if rollout.values is None:
            raise UsageError(
                "--advantage-estimator ppo needs a critic's values, and there are none here; slimrl rescore cannot "
                "compare the advantages of such a run"
            )
        rewards = token_rewards(rollout, config)
        found = gae(rewards, rollout.values, rollout.num_tokens, gamma=config.gamma, lambd=config.lambd)
        return Advantages(found.advantages.astype(np.float32), found.returns.astype(np.float32))

    return ppo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `ppo`."""
    return {"ppo": make}
