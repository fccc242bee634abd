"""Group-relative advantages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, Factory, PluginOptions, TokenAdvantage, advantage_traits, hookimpl
from slimrl.config import GrpoConfig
from slimrl_advantages.group import SETTINGS, relative_to


def make(options: PluginOptions) -> TokenAdvantage:
    """The estimator that --advantage-estimator grpo names (Shao et al. 2024, arXiv:2402.03300, section 4.1)."""
    config = options[GrpoConfig]
    relative, compares_group = relative_to(config), not config.disable_rewards_normalization

    @advantage_traits(compares_group=compares_group, heeds=SETTINGS)
    def grpo(rollout: AdvantageInput, /) -> NDArray[np.float32]:
        return relative(rollout).astype(np.float32)

    return grpo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `grpo`."""
    return {"grpo": make}
