"""Dr. GRPO: group-relative advantages without the deviation, and a loss without the length of a response."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput, Factory, PluginOptions, TokenAdvantage, advantage_traits, hookimpl
from slimrl_advantages.group import centred


@advantage_traits(divides_by_max_length=True)
def dr_grpo(rollout: AdvantageInput, /) -> NDArray[np.float32]:
    """The estimator that --advantage-estimator dr_grpo names (Liu et al. 2025, arXiv:2503.20783, section 3.2)."""
    return centred(rollout).astype(np.float32)


def make(options: PluginOptions) -> TokenAdvantage:
    """It has no options."""
    return dr_grpo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[TokenAdvantage]]:
    """Offer `dr_grpo`."""
    return {"dr_grpo": make}
