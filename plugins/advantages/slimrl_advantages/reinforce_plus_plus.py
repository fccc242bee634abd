"""REINFORCE++: discounted returns of token rewards, without a group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import (
    AdvantageInput,
    Factory,
    PluginOptions,
    TokenAdvantage,
    advantage_traits,
    discounted_returns,
    hookimpl,
)
from slimrl.config import GrpoConfig
from slimrl_advantages.token_rewards import token_rewards


def make(options: PluginOptions) -> TokenAdvantage:
    """The estimator that --advantage-estimator reinforce_plus_plus names (Hu et al. 2025, arXiv:2501.03262).

    The trainer whitens what it returns over all trained tokens: the batch's mean is its baseline.
    """
    config = options[GrpoConfig]

    @advantage_traits(compares_group=False, heeds={"kl_coef", "gamma"}, needs_normalization=True)
    def reinforce_plus_plus(rollout: AdvantageInput, /) -> NDArray[np.float32]:
        rewards = token_rewards(rollout, config)
        return discounted_returns(rewards, rollout.num_tokens, config.gamma).astype(np.float32)

    return reinforce_plus_plus


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `reinforce_plus_plus`."""
    return {"reinforce_plus_plus": make}
