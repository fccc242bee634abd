"""Epochs over weighted files: which prompts one holds, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """One file's share of the prompts."""

    count: int
    """Its prompts, at least one."""
    weight: float = 1.0

    @property
    def per_epoch(self) -> int:
        """How many of them an epoch holds: weight x count to the nearest, at least one."""
        return max(1, math.floor(self.weight * self.count + 0.5))


def epoch_size(parts: Sequence[Part]) -> int:
    """Prompts in every epoch."""
    return sum(part.per_epoch for part in parts)


def epoch_order(parts: Sequence[Part], epoch: int, *, shuffle: bool, seed: int) -> NDArray[np.int64]:
    """The prompts of an epoch, as indices into all parts one after the other; depends on its arguments alone.

    Each part is gone through again and again, and an epoch takes its next `per_epoch` prompts: no prompt of a part
    comes again before all others of it did. Shuffled, each such pass has an order of its own, and so has the epoch;
    otherwise each part keeps its order and the parts are interleaved evenly.
    """
    first = np.cumsum([0, *(part.count for part in parts)])
    shares = [
        _share(part, epoch, np.random.SeedSequence([seed, number]) if shuffle else None) + first[number]
        for number, part in enumerate(parts)
    ]
    order = np.concatenate(shares)
    if shuffle:
        order.sort()
        np.random.default_rng([seed, epoch]).shuffle(order)
    elif len(parts) > 1:
        # the middle of each prompt's stretch of the epoch; equal ones in order of the files
        places = np.concatenate([(np.arange(len(share)) + 0.5) / len(share) for share in shares])
        order = order[np.argsort(places, kind="stable")]
    return order


def _share(part: Part, epoch: int, seeds: np.random.SeedSequence | None) -> NDArray[np.int64]:
    start, stop = epoch * part.per_epoch, (epoch + 1) * part.per_epoch
    passes = []
    for number in range(start // part.count, (stop - 1) // part.count + 1):
        low, high = max(start - number * part.count, 0), min(stop - number * part.count, part.count)
        rows = np.arange(part.count)
        if seeds is not None and high - low < part.count:  # of a whole pass the order does not matter here
            key = np.random.SeedSequence(seeds.entropy, spawn_key=(number,))
            np.random.default_rng(key).shuffle(rows)
        passes.append(rows[low:high])
    return np.concatenate(passes)
