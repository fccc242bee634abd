"""Reward `random`: 0 or 1 by the toss of a coin, whatever the reply says; nothing can be learned from it."""

from __future__ import annotations

import random
from collections.abc import Mapping

from slimrl import Factory, PluginOptions, Reward, Sample, hookimpl, reward_traits


def make(options: PluginOptions) -> Reward:
    """The reward; it has no options. Every process tosses its own coin."""
    # The operating system's coin: two workers with one seed would give two samples of a group the same rewards.
    coin = random.SystemRandom()

    @reward_traits(inline=True)
    def score(sample: Sample) -> int:
        return coin.getrandbits(1)

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `random`."""
    return {"random": make}
