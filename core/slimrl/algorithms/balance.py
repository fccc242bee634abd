"""Which micro-batches each data-parallel rank gets: as many on every rank, and as equal as the samples allow."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slimrl.algorithms.packing import cluster_units, plan_micro_batches

MAX_PASSED = 32
"""Micro-batches that have no room and are passed over for one that has, before an even spread is given up."""


def plan_ranks(
    num_tokens: Sequence[int],
    cluster_ids: Sequence[int],
    *,
    num_ranks: int,
    multiple: int = 1,
    max_samples: int | None = None,
    max_tokens: int | None = None,
    balance: bool = False,
    costs: Sequence[float] | None = None,
) -> list[list[list[int]]]:
    """Cut a step's samples into micro-batches (see `plan_micro_batches`) and deal them out to ranks.

    Returns [ranks][micro-batches][samples]; samples are indices, ascending, each in one micro-batch. One is empty only
    where the step has fewer samples than micro-batches are needed; it comes last. Such a rank still has to make the
    pass, over any token with weight 0, because the other ranks wait for it in collective operations.

    Every rank gets the same number of them, a multiple of `multiple` (what an interleaved pipeline needs); where the
    number has to be raised the largest are halved. Without `balance` they are dealt out in turn. With it samples are
    spread over micro-batches evenly by `costs` (one a sample; tokens, unless given) as far as `max_tokens` allows,
    and ranks get equal shares by the differencing method. The plan depends on the arguments alone, so each rank can
    make it by itself.
    """
    assert num_ranks >= 1 and multiple >= 1
    cost = np.asarray(num_tokens if costs is None else costs, dtype=np.float64)
    batches = plan_micro_batches(num_tokens, cluster_ids, max_samples=max_samples, max_tokens=max_tokens)
    step = num_ranks * multiple
    count = -(-len(batches) // step) * step
    if balance and max_tokens is not None:
        batches = _spread_evenly(num_tokens, cluster_ids, cost, count, max_tokens) or batches
    batches = _halve_largest(batches, cluster_ids, cost, count)
    batches += [[] for _ in range(count - len(batches))]
    if balance:
        shares = equal_shares([float(cost[batch].sum()) for batch in batches], num_ranks)
    else:
        shares = [list(range(rank, count, num_ranks)) for rank in range(num_ranks)]
    return [sorted((batches[i] for i in share), key=lambda batch: (not batch, batch)) for share in shares]


def equal_shares(costs: Sequence[float], num_shares: int) -> list[list[int]]:
    """Split items into shares of equal number and nearly equal cost; returns the items' indices.

    The number of items must be a multiple of `num_shares`. Runs of items that are next to each other in size are
    merged, the two of widest spread first, the dearest share of one with the cheapest of the other (the differencing
    method of Karmarkar and Karp 1982, balanced).
    """
    assert len(costs) % num_shares == 0
    order = np.argsort(-np.asarray(costs, dtype=np.float64), kind="stable").tolist()
    heap: list[tuple[float, int, list[tuple[float, list[int]]]]] = []
    for start in range(0, len(order), num_shares):
        shares = [(float(costs[i]), [i]) for i in order[start : start + num_shares]]
        heap.append((shares[-1][0] - shares[0][0], start, shares))
    heapq.heapify(heap)
    while len(heap) > 1:
        _, number, dear_first = heapq.heappop(heap)
        _, _, other = heapq.heappop(heap)
        merged = [
            (cost + more, items + others)
            for (cost, items), (more, others) in zip(dear_first, reversed(other), strict=True)
        ]
        merged.sort(key=lambda share: -share[0])
        heapq.heappush(heap, (merged[-1][0] - merged[0][0], number, merged))
    return [sorted(items) for _, items in heap[0][2]] if heap else [[] for _ in range(num_shares)]


def _spread_evenly(
    num_tokens: Sequence[int], cluster_ids: Sequence[int], cost: NDArray[np.float64], count: int, max_tokens: int
) -> list[list[int]] | None:
    """At most `count` micro-batches of nearly equal cost, dearest cluster first; None where the limit is in the way."""
    units = cluster_units(num_tokens, cluster_ids, max_tokens)
    sizes = [sum(num_tokens[i] for i in unit) for unit in units]
    of_sample = cost.tolist()
    unit_cost = np.array([sum(of_sample[i] for i in unit) for unit in units])
    batches: list[list[int]] = [[] for _ in range(count)]
    room = [max_tokens] * count
    cheapest = [(0.0, number) for number in range(count)]
    for unit in np.argsort(-unit_cost, kind="stable").tolist():
        passed: list[tuple[float, int]] = []
        while cheapest and len(passed) <= MAX_PASSED and batches[cheapest[0][1]] and room[cheapest[0][1]] < sizes[unit]:
            passed.append(heapq.heappop(cheapest))
        if not cheapest or len(passed) > MAX_PASSED:
            return None
        load, number = cheapest[0]
        batches[number] += units[unit]
        room[number] -= sizes[unit]
        heapq.heapreplace(cheapest, (load + unit_cost[unit], number))
        for entry in passed:
            heapq.heappush(cheapest, entry)
    return sorted(sorted(batch) for batch in batches if batch)


def _halve_largest(
    batches: Sequence[list[int]], cluster_ids: Sequence[int], cost: NDArray[np.float64], count: int
) -> list[list[int]]:
    """Halve the dearest micro-batches of several samples until there are `count`, or none is left to halve."""
    single = [batch for batch in batches if len(batch) == 1]
    heap = [(-float(cost[batch].sum()), batch) for batch in batches if len(batch) > 1]
    heapq.heapify(heap)
    while heap and len(single) + len(heap) < count:
        _, batch = heapq.heappop(heap)
        for half in _halves(batch, cluster_ids, cost):
            if len(half) > 1:
                heapq.heappush(heap, (-float(cost[half].sum()), half))
            else:
                single.append(half)
    return sorted([*single, *(batch for _, batch in heap)])


def _halves(batch: Sequence[int], cluster_ids: Sequence[int], cost: NDArray[np.float64]) -> list[list[int]]:
    """Two parts of nearly equal cost that share no cluster, unless the micro-batch has but one."""
    clusters: dict[int, list[int]] = {}
    for sample in batch:
        clusters.setdefault(int(cluster_ids[sample]), []).append(sample)
    units = list(clusters.values()) if len(clusters) > 1 else [[sample] for sample in batch]
    units.sort(key=lambda unit: -float(cost[unit].sum()))
    halves: list[list[int]] = [[], []]
    loads = [0.0, 0.0]
    for unit in units:
        # Costs may be zero, so the first two units are put apart by number.
        target = min((0, 1), key=lambda half: (loads[half], len(halves[half])))
        halves[target] += unit
        loads[target] += float(cost[unit].sum())
    return [sorted(half) for half in halves]
