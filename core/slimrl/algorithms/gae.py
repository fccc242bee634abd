"""Discounted returns and generalised advantages over the trained tokens of ragged samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 128


class Gae(NamedTuple):
    """Both [tokens]."""

    advantages: NDArray[np.float64]
    returns: NDArray[np.float64]
    """What the values are trained towards: advantages + values."""


def discounted_returns(rewards: NDArray[np.floating], lengths: NDArray[np.int64], gamma: float) -> NDArray[np.float64]:
    """The sum of a token's reward and all later ones of its sample, each `gamma` times less a token further on.

    `rewards` is [tokens], sample after sample; `lengths` is [samples], its sum is the number of tokens. Equal to
    R_t = r_t + gamma R_{t+1} from a sample's last token to its first, but computed in chunks of 128 tokens: inside of
    a chunk one product with a triangular matrix, then the carry from chunk to chunk, for all samples at once.
    """
    chunks_per_sample = -(-lengths // CHUNK)
    num_chunks = int(chunks_per_sample.sum())
    ends = lengths.cumsum()
    sample_of_token = np.repeat(np.arange(len(lengths)), lengths)
    # Counted from a sample's end, so that its only incomplete chunk is the last one of the scan.
    back = ends[sample_of_token] - 1 - np.arange(len(rewards))
    first_chunk = chunks_per_sample.cumsum() - chunks_per_sample
    place = (first_chunk[sample_of_token] + back // CHUNK) * CHUNK + back % CHUNK
    chunks = np.zeros((num_chunks, CHUNK))
    chunks.reshape(-1)[place] = rewards
    steps = np.arange(CHUNK)
    distance = steps[None, :] - steps[:, None]
    chunks = chunks @ np.where(distance >= 0, gamma ** np.maximum(distance, 0), 0.0)
    carry_weights = gamma ** (steps + 1)
    for number in range(1, int(chunks_per_sample.max(initial=0))):
        current = first_chunk[chunks_per_sample > number] + number
        chunks[current] += chunks[current - 1, -1:] * carry_weights
    returns: NDArray[np.float64] = chunks.reshape(-1)[place]
    return returns


def gae(
    rewards: NDArray[np.floating],
    values: NDArray[np.floating],
    lengths: NDArray[np.int64],
    *,
    gamma: float,
    lambd: float,
) -> Gae:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16), and the critic's targets.

    `rewards` and `values` are [tokens], trained tokens only, sample after sample; `lengths` is [samples]. With
    delta_t = r_t + gamma V_{t+1} - V_t, and V = 0 behind a sample's last token, an advantage is the return of delta
    discounted with gamma lambd. Tokens that are not trained, as a tool's, are no step in time.
    """
    exact = values.astype(np.float64)
    following = np.zeros_like(exact)
    following[:-1] = exact[1:]
    following[lengths.cumsum()[lengths > 0] - 1] = 0.0
    advantages = discounted_returns(rewards + gamma * following - exact, lengths, gamma * lambd)
    return Gae(advantages, advantages + exact)
