"""The token trie of a micro-batch: what its sequences have in common is one node, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """The nodes a sequence adds behind what it shares with the one before it."""

    start: int
    end: int
    depth: int
    """Position of the first new node: how many nodes of its path come from earlier sequences."""
    path: Indices
    """[depth + end - start] nodes from the root to the block's last."""


@dataclass(frozen=True)
class PrefixTrie:
    """Sequences merged by their prefixes, nodes in depth-first order, so every node comes after its ancestors.

    A causal model computes the same for a node as for that token in any of its sequences: position and everything
    to the left are equal. Without sharing the trie is a forest of plain sequences.
    """

    tokens: Indices
    """[nodes]"""
    positions: Indices
    """[nodes]"""
    paths: list[Indices]
    """[sequences][tokens] the node of each token, in the order the sequences were given."""
    blocks: list[Block]
    """In node order; together they hold every node once."""

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestor_mask(self) -> NDArray[np.bool_]:
        """[nodes, nodes] whether row may attend to column: itself and its ancestors. Quadratic; for tests and tools."""
        mask = np.zeros((len(self), len(self)), dtype=np.bool_)
        for path in self.paths:
            mask[path[:, None], path[None, :]] |= np.tri(len(path), dtype=np.bool_)
        return mask


def build_trie(sequences: Sequence[NDArray[np.integer]], *, share: bool = True) -> PrefixTrie:
    """Merge token sequences by common prefixes; `share=False` keeps each sequence whole.

    Sorted sequences share with their neighbour all that they share with anybody before, so one comparison a sequence
    finds every common prefix: O(tokens) besides the sort.
    """
    order = list(range(len(sequences)))
    if share:
        # Big-endian bytes sort as the token ids do, and compare at memory speed.
        keys = [sequence.astype(">u4").tobytes() for sequence in sequences]
        order.sort(key=keys.__getitem__)
    empty = np.empty(0, dtype=np.int64)
    paths: list[Indices] = [empty] * len(sequences)
    blocks: list[Block] = []
    previous: NDArray[np.integer] = empty
    previous_path = empty
    num_nodes = 0
    for index in order:
        sequence = sequences[index]
        depth = common_prefix(previous, sequence) if share else 0
        new = np.arange(num_nodes, num_nodes + len(sequence) - depth)
        path = np.concatenate((previous_path[:depth], new)) if depth else new
        paths[index] = path
        if len(new):
            blocks.append(Block(num_nodes, num_nodes + len(new), depth, path))
            num_nodes += len(new)
        previous, previous_path = sequence, path
    tokens = np.empty(num_nodes, dtype=np.int64)
    positions = np.empty(num_nodes, dtype=np.int64)
    for sequence, path in zip(sequences, paths, strict=True):
        tokens[path] = sequence
        positions[path] = np.arange(len(path))
    return PrefixTrie(tokens, positions, paths, blocks)


def common_prefix(left: NDArray[np.integer], right: NDArray[np.integer]) -> int:
    """How many leading tokens two sequences share."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length
