"""REINFORCE++ with a baseline: group-relative rewards less the divergence of each token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, Factory, PluginOptions, TokenAdvantage, advantage_traits, hookimpl
from slimrl.config import GrpoConfig
from slimrl_advantages.group import centred, plain
from slimrl_advantages.token_rewards import kl_penalty


def make(options: PluginOptions) -> TokenAdvantage:
    """The estimator that --advantage-estimator reinforce_plus_plus_baseline names (Hu et al. 2025, arXiv:2501.03262).

    The trainer whitens what it returns over all trained tokens.
    """
    config = options[GrpoConfig]
    is_plain = config.disable_rewards_normalization
    heeds = {"kl_coef", "disable_rewards_normalization"}

    @advantage_traits(compares_group=not is_plain, heeds=heeds, needs_normalization=True)
    def reinforce_plus_plus_baseline(rollout: AdvantageInput, /) -> NDArray[np.float32]:
        of_token = np.repeat(plain(rollout) if is_plain else centred(rollout), rollout.num_tokens)
        return (of_token - kl_penalty(rollout, config)).astype(np.float32)

    return reinforce_plus_plus_baseline


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `reinforce_plus_plus_baseline`."""
    return {"reinforce_plus_plus_baseline": make}
