"""CISPO: group-relative advantages with a clipped weight on the plain policy gradient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, Factory, PluginOptions, TokenAdvantage, advantage_traits, hookimpl
from slimrl.config import GrpoConfig
from slimrl_advantages.group import centred, normalised


def make(options: PluginOptions) -> TokenAdvantage:
    """The estimator that --advantage-estimator cispo names (MiniMax 2025, arXiv:2506.13585)."""
    compare = centred if options[GrpoConfig].disable_grpo_std_normalization else normalised

    @advantage_traits(heeds={"disable_grpo_std_normalization"}, policy_loss="cispo")
    def cispo(rollout: AdvantageInput, /) -> NDArray[np.float32]:
        return compare(rollout).astype(np.float32)

    return cispo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `cispo`."""
    return {"cispo": make}
