"""RLOO: rewards compared with the mean of the group's other rollouts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, Factory, PluginOptions, TokenAdvantage, advantage_traits, hookimpl
from slimrl_advantages.group import left_out


@advantage_traits()
def rloo(rollout: AdvantageInput, /) -> NDArray[np.float32]:
    """The estimator that --advantage-estimator rloo names (Ahmadian et al. 2024, arXiv:2402.14740, section 3.2)."""
    return left_out(rollout).astype(np.float32)


def make(options: PluginOptions) -> TokenAdvantage:
    """It has no options."""
    return rloo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `rloo`."""
    return {"rloo": make}
