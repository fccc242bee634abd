"""GSPO: group-relative advantages with one importance ratio a sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, Factory, PluginOptions, TokenAdvantage, advantage_traits, hookimpl
from slimrl.config import GrpoConfig
from slimrl_advantages.group import SETTINGS, relative_to


def make(options: PluginOptions) -> TokenAdvantage:
    """The estimator that --advantage-estimator gspo names (Zheng et al. 2025, arXiv:2507.18071)."""
    config = options[GrpoConfig]
    relative, compares_group = relative_to(config), not config.disable_rewards_normalization

    @advantage_traits(compares_group=compares_group, heeds=SETTINGS, policy_loss="gspo")
    def gspo(rollout: AdvantageInput, /) -> NDArray[np.float32]:
        return relative(rollout).astype(np.float32)

    return gspo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `gspo`."""
    return {"gspo": make}
