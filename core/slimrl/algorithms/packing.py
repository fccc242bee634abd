"""Which samples share a forward pass: the micro-batches of one optimizer step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plan_micro_batches(
    num_tokens: Sequence[int],
    cluster_ids: Sequence[int],
    *,
    max_samples: int | None = None,
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Cut samples into micro-batches; each is a list of sample indices, ascending, and every sample is in one.

    `num_tokens` and `cluster_ids` have one entry a sample. `max_samples`: consecutive samples, that many each.
    `max_tokens`: first-fit-decreasing by tokens; samples of one cluster (a group, so a common prompt) stay together
    where they fit, and a sample longer than the limit goes alone. Give exactly one limit. O(clusters^2 / 8) bytes
    compared at worst, so thousands of samples take milliseconds.
    """
    if (max_samples is None) == (max_tokens is None):
        raise ValueError("give max_samples or max_tokens, and not both")
    if max_samples is not None:
        return [list(range(i, min(i + max_samples, len(num_tokens)))) for i in range(0, len(num_tokens), max_samples)]
    assert max_tokens is not None
    units = cluster_units(num_tokens, cluster_ids, max_tokens)
    sizes = np.array([sum(num_tokens[i] for i in unit) for unit in units], dtype=np.int64)
    bins: list[list[int]] = []
    room = np.full(len(units) + 1, max_tokens, dtype=np.int64)
    for unit in np.argsort(-sizes, kind="stable"):
        target = int((room[: len(bins) + 1] >= sizes[unit]).argmax())
        if target == len(bins) or room[target] < sizes[unit]:
            target = len(bins)
            bins.append([])
        bins[target].extend(units[unit])
        room[target] -= sizes[unit]
    return sorted(sorted(samples) for samples in bins)


def cluster_units(num_tokens: Sequence[int], cluster_ids: Sequence[int], max_tokens: int) -> list[list[int]]:
    """What first-fit places as a whole: clusters, or consecutive pieces of one that is over the limit."""
    clusters: dict[int, list[int]] = {}
    for index, cluster in enumerate(cluster_ids):
        clusters.setdefault(int(cluster), []).append(index)
    units: list[list[int]] = []
    for members in clusters.values():
        unit: list[int] = []
        size = 0
        for index in members:
            if unit and size + num_tokens[index] > max_tokens:
                units.append(unit)
                unit, size = [], 0
            unit.append(index)
            size += int(num_tokens[index])
        units.append(unit)
    return units


def split_rollouts(
    rollout_ids: NDArray[np.int64], *, num_steps: int, rollouts_per_step: int
) -> list[NDArray[np.int64]]:
    """Sample indices of each optimizer step: whole rollouts in the order they appear, always `num_steps` entries.

    The rollouts are split evenly: `rollouts_per_step` each, or fewer when some are missing (samples without a
    score), none if need be. Raises ValueError when there are more than fit.
    """
    _, first_index, inverse = np.unique(rollout_ids, return_index=True, return_inverse=True)
    num_rollouts = len(first_index)
    if num_rollouts > num_steps * rollouts_per_step:
        raise ValueError(
            f"{num_rollouts} rollouts do not fit in {num_steps} optimizer steps of {rollouts_per_step} rollouts; "
            "raise --global-batch-size or --num-steps-per-rollout"
        )
    order = np.empty(num_rollouts, dtype=np.int64)
    order[np.argsort(first_index, kind="stable")] = np.arange(num_rollouts)
    place = order[inverse]
    bounds = [0, *np.cumsum([len(part) for part in np.array_split(np.arange(num_rollouts), num_steps)])]
    return [np.flatnonzero((place >= low) & (place < high)) for low, high in itertools.pairwise(bounds)]
