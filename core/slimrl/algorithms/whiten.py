"""Whitening of advantages: mean 0 and variance 1 over all trained tokens of a rollout."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-8


def moments(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of [tokens], as [3]: those of several parts of a rollout may be added up."""
    exact = values.astype(np.float64)
    return np.array([len(exact), exact.sum(), exact @ exact])


def whiten(values: NDArray[np.float32], total: NDArray[np.float64]) -> NDArray[np.float32]:
    """Centre and scale [tokens] by the moments of the whole rollout: (A - mean) / sqrt(variance + 1e-8).

    `total` is `moments` of all tokens, added up over the ranks that share a rollout. The variance is the unbiased one
    where there are two tokens or more (the global normalisation of Hu et al. 2025, arXiv:2501.03262). Raises ValueError
    where no token is trained: there is nothing to compare with.
    """
    count, summed, squared = total.tolist()
    if count == 0:
        raise ValueError("advantages cannot be normalised: no token of the rollout is trained")
    mean = summed / count
    variance = max(squared / count - mean**2, 0.0)
    if count >= 2:
        variance *= count / (count - 1)
    whitened: NDArray[np.float64] = (values.astype(np.float64) - mean) / math.sqrt(variance + EPSILON)
    return whitened.astype(np.float32)
