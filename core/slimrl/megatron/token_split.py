"""Which tokens of a micro-batch each of the processes that share it has, and what theirs attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimrl.algorithms.segments import Segment

Nodes = NDArray[np.int64]


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of every process that shares a micro-batch, equally many each."""

    nodes: Nodes
    """[processes, tokens of one] ascending for each process."""

    @property
    def places(self) -> Nodes:
        """[tokens] where each token is when the processes' tokens are put one after the other."""
        return np.argsort(self.nodes.reshape(-1))

    def process_of(self, nodes: Nodes) -> Nodes:
        """Which process has each of some tokens."""
        processes: Nodes = self.places[nodes] // self.nodes.shape[1]
        return processes


def split_tokens(num_tokens: int, size: int) -> TokenSplit:
    """Each process has an early and a late run, so that all look back on equally many; 2 x size divides the tokens."""
    runs = np.arange(num_tokens).reshape(2 * size, -1)
    return TokenSplit(np.concatenate((runs[:size], runs[: -size - 1 : -1]), axis=1))


def own_segments(segments: Sequence[Segment], nodes: Nodes) -> list[tuple[Segment, Nodes]]:
    """The parts of segments whose queries are `nodes`, one for each run of neighbours; with the keys of each.

    A part starts at its first query, so its segment counts rows from there; its keys reach up to its last query.
    """
    parts = []
    for segment in segments:
        inside = nodes[(nodes >= segment.start) & (nodes < segment.end)]
        for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):
            if len(run):
                parts.append(_part(segment, int(run[0]), int(run[-1]) + 1))
    return parts


def _part(segment: Segment, start: int, end: int) -> tuple[Segment, Nodes]:
    keys = np.concatenate((segment.context, np.arange(segment.start, end)))
    rows = np.arange(start, end)
    if segment.mask is not None:
        mask = segment.mask[start - segment.start : end - segment.start, : len(keys)]
    elif start == segment.start:
        return Segment(start, end, segment.context, None), keys
    else:
        mask = keys[None, :] <= rows[:, None]
    return Segment(start, end, segment.context, mask), keys
