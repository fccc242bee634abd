"""pass@k: how likely at least one of k responses to a prompt passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from slimrl.types import Group


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv:2107.03374), as a product.

    It is the share of the subsets of k samples that hold one which passed. Raises ValueError where there are none.
    """
    if not 0 <= num_passed <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_passed} passed among {num_samples} samples is not defined")
    num_failed = num_samples - num_passed
    if num_failed < k:
        return 1.0
    # binomials of thousands of samples overflow a float; the factors of their ratio are between 0 and 1
    return 1.0 - math.prod(1.0 - k / i for i in range(num_failed + 1, num_samples + 1))


def default_ks(group_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to the group's size."""
    return tuple(2**i for i in range(group_size.bit_length()))


def pass_rates(groups: Sequence[Group], ks: Iterable[int], threshold: float) -> dict[int, float]:
    """pass@k by k: the mean over prompts of the estimate from their scored responses.

    A response passes with a value of `threshold` or more; siblings of a fan-out are one response, and the best of them
    counts. A prompt with fewer than k scored responses has no part in pass@k; where none has enough, k is left out.
    """
    counts = [_count(group, threshold) for group in groups]
    found: dict[int, float] = {}
    for k in ks:
        estimates = [pass_at_k(scored, passed, k) for scored, passed in counts if scored >= k]
        if estimates:
            found[k] = math.fsum(estimates) / len(estimates)
    return found


def pass_rate_metrics(
    groups: Sequence[Group], prefix: str, threshold: float, ks: Sequence[int] = ()
) -> dict[str, float]:
    """pass@k as metrics `{prefix}pass@k`; by default for k = 1, 2, 4, ... up to the largest group."""
    largest = max((len({sample.rollout_id for sample in group}) for group in groups), default=0)
    rates = pass_rates(groups, ks or default_ks(largest), threshold)
    return {f"{prefix}pass@{k}": rate for k, rate in rates.items()}


def _count(group: Group, threshold: float) -> tuple[int, int]:
    """How many of a prompt's responses were scored, and how many passed."""
    best: dict[int, float] = {}
    for sample in group:
        if sample.value is not None:
            best[sample.rollout_id] = max(sample.value, best.get(sample.rollout_id, -math.inf))
    return len(best), sum(value >= threshold for value in best.values())
