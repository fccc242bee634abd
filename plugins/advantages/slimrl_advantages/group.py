"""Rewards compared with those of their group, in which every rollout counts once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slimrl import AdvantageInput
from slimrl.config import GrpoConfig

EPSILON = 1e-6
SETTINGS = frozenset({"disable_rewards_normalization", "disable_grpo_std_normalization"})
"""What `relative_to` reads."""


def relative_to(config: GrpoConfig) -> Callable[[AdvantageInput], NDArray[np.float64]]:
    """What the settings make of rewards: normalised, centred, or left as they are."""
    if config.disable_rewards_normalization:
        return plain
    return centred if config.disable_grpo_std_normalization else normalised


def plain(rollout: AdvantageInput) -> NDArray[np.float64]:
    """Each reward as it is, [samples]."""
    return rollout.rewards.astype(np.float64)


def centred(rollout: AdvantageInput) -> NDArray[np.float64]:
    """Each reward minus its group's mean, [samples]."""
    return _Groups(rollout).centred


def normalised(rollout: AdvantageInput) -> NDArray[np.float64]:
    """Each reward minus its group's mean, over the group's unbiased standard deviation + 1e-6, [samples]."""
    groups = _Groups(rollout)
    squares = groups.sums(groups.share * groups.centred**2)
    deviation = np.sqrt(squares / np.maximum(groups.num_rollouts - 1, 1))
    found: NDArray[np.float64] = groups.centred / (deviation[groups.group] + EPSILON)
    return found


def left_out(rollout: AdvantageInput) -> NDArray[np.float64]:
    """Each reward minus the mean of the group's other rollouts, [samples]; zero where there is no other."""
    groups = _Groups(rollout)
    _, of_rollout = np.unique(rollout.rollout_ids, return_inverse=True)
    own = np.bincount(of_rollout, groups.share * groups.centred)[of_rollout]
    others = groups.num_rollouts[groups.group] - 1
    # The rewards of a group, less its mean, add up to zero: what its other rollouts have is minus the own one's.
    return np.where(others > 0, groups.centred + own / np.maximum(others, 1), 0.0)


class _Groups:
    """The groups of a rollout, told apart by id alone, so they may be of any size and in any order.

    Samples without a score are not among them. Siblings of a fan-out share one rollout's weight, and a group whose
    rewards are all the same is centred to exactly zero.
    """

    def __init__(self, rollout: AdvantageInput) -> None:
        _, self.group = np.unique(rollout.group_ids, return_inverse=True)
        self._count = int(self.group.max(initial=-1)) + 1
        _, of_rollout, siblings = np.unique(rollout.rollout_ids, return_inverse=True, return_counts=True)
        self.share = 1.0 / siblings[of_rollout]
        """[samples]"""
        self.num_rollouts = np.rint(self.sums(self.share))
        """[groups]"""
        rewards = rollout.rewards.astype(np.float64)
        lowest = np.full(self._count, np.inf)
        highest = np.full(self._count, -np.inf)
        np.minimum.at(lowest, self.group, rewards)
        np.maximum.at(highest, self.group, rewards)
        mean = self.sums(self.share * rewards) / self.num_rollouts
        # The mean of equal numbers may differ from them in the last bit.
        self.centred = np.where((lowest == highest)[self.group], 0.0, rewards - mean[self.group])
        """[samples]"""

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each group."""
        return np.bincount(self.group, values, self._count).astype(np.float64)
