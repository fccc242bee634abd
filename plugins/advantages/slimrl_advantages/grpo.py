"""Group-relative advantages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimrl import Advantage, Factory, PluginOptions, advantage_traits, hookimpl
from slimrl.config import GrpoConfig

EPSILON = 1e-6


def group_advantages(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64], *, divide_by_std: bool
) -> NDArray[np.float32]:
    """Each reward minus its group's mean, over the group's unbiased standard deviation + 1e-6 (as slime has it).

    Groups are told apart by id alone, so they may be of any size and in any order; one whose rewards are all the
    same, or of one sample, gets exactly zero (Shao et al. 2024, arXiv:2402.03300).
    """
    _, group, counts = np.unique(group_ids, return_inverse=True, return_counts=True)
    values = rewards.astype(np.float64)
    lowest = np.full(len(counts), np.inf)
    highest = np.full(len(counts), -np.inf)
    np.minimum.at(lowest, group, values)
    np.maximum.at(highest, group, values)
    centred = values - (np.bincount(group, values, len(counts)) / counts)[group]
    if divide_by_std:
        variance = np.bincount(group, centred**2, len(counts)) / np.maximum(counts - 1, 1)
        centred /= np.sqrt(variance)[group] + EPSILON
    # The mean of equal numbers may differ from them in the last bit.
    return np.where((lowest == highest)[group], 0.0, centred).astype(np.float32)


def make(options: PluginOptions) -> Advantage:
    """The estimator that --advantage-estimator grpo names."""
    divide_by_std = not options[GrpoConfig].disable_grpo_std_normalization

    @advantage_traits(heeds={"disable_grpo_std_normalization"})
    def grpo(rewards: NDArray[np.float32], group_ids: NDArray[np.int64], /) -> NDArray[np.float32]:
        return group_advantages(rewards, group_ids, divide_by_std=divide_by_std)

    return grpo


@hookimpl
def slimrl_offer_advantages() -> Mapping[str, Factory[Advantage]]:
    """Offer `grpo`."""
    return {"grpo": make}
