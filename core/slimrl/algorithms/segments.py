"""Attention over a trie as a few dense calls: runs of nodes, each with the ancestors it looks back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimrl.algorithms.prefix_trie import Block, Indices, PrefixTrie

CALL_COST = 1024
"""What one more attention call costs, in query-key pairs (measured at 9 heads of 64 on a CPU: 150 to 250 us)."""
MAX_BLOCK = 512
"""Nodes of one block per call where a mask is needed: bounds its memory and skips most of the upper triangle."""
MAX_RUN = 1024
"""Nodes of several blocks merged in one call at most."""
MAX_MERGED = 64
"""Blocks merged in one call at most: keeps the plan linear in the number of blocks."""


@dataclass(frozen=True)
class Segment:
    """Nodes start..end attend to `context` and to each other."""

    start: int
    end: int
    context: Indices
    """[context] nodes before start, ancestors of at least one node in it."""
    mask: NDArray[np.bool_] | None
    """[end - start, context + end - start] who sees whom; None: everyone the context, and causally each other."""


def attention_segments(trie: PrefixTrie) -> list[Segment]:
    """Cut the trie's nodes into segments that cover each node once, in order, with the fewest query-key pairs.

    Runs of blocks are chosen by dynamic programming over pairs computed plus `CALL_COST` a call. A sequence that
    shares nothing is one causal segment, so without shared prefixes this is plain packed (thd) attention.
    """
    blocks = _split_long(trie.blocks)
    return [_segment(blocks[first:last]) for first, last in _runs(blocks)]


def block_segments(trie: PrefixTrie) -> list[Segment]:
    """One segment a block, none with a mask: for a kernel that takes any number of segments in one call."""
    return [Segment(block.start, block.end, block.path[: block.depth], None) for block in trie.blocks]


def _split_long(blocks: Sequence[Block]) -> list[Block]:
    pieces: list[Block] = []
    for block in blocks:
        if block.depth == 0 or block.end - block.start <= MAX_BLOCK:
            pieces.append(block)
            continue
        for start in range(block.start, block.end, MAX_BLOCK):
            end = min(start + MAX_BLOCK, block.end)
            depth = block.depth + start - block.start
            pieces.append(Block(start, end, depth, block.path[: depth + end - start]))
    return pieces


def _runs(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    best = [0.0] * (len(blocks) + 1)
    cut = [0] * (len(blocks) + 1)
    for last in range(len(blocks)):
        end = blocks[last].end
        best[last + 1] = float("inf")
        for first in range(last, max(last - MAX_MERGED, -1), -1):
            block = blocks[first]
            num_rows = end - block.start
            if num_rows > MAX_RUN and first < last:
                break
            pairs = num_rows * (block.depth + num_rows)
            if first == last and block.depth == 0:
                pairs //= 2  # causal without a mask: the upper triangle is skipped
            cost = best[first] + CALL_COST + pairs
            if cost < best[last + 1]:
                best[last + 1], cut[last + 1] = cost, first
    runs: list[tuple[int, int]] = []
    last = len(blocks)
    while last:
        runs.append((cut[last], last))
        last = cut[last]
    return runs[::-1]


def _segment(run: Sequence[Block]) -> Segment:
    head = run[0]
    start, end = head.start, run[-1].end
    # What later blocks of the run see of earlier nodes is a part of what the first one sees.
    context = head.path[: head.depth]
    if len(run) == 1 and head.depth == 0:
        return Segment(start, end, context, None)
    mask = np.zeros((end - start, head.depth + end - start), dtype=np.bool_)
    for block in run:
        inherited = block.path[: block.depth]
        num_outside = int(np.searchsorted(inherited, start))
        rows = slice(block.start - start, block.end - start)
        mask[rows, :num_outside] = True
        mask[rows, head.depth + inherited[num_outside:] - start] = True
        mask[rows, head.depth + rows.start : head.depth + rows.stop] = np.tri(block.end - block.start, dtype=np.bool_)
    return Segment(start, end, context, mask)
