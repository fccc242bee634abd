"""The token trie and its attention segments against what each sequence sees on its own."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slimrl.algorithms import segments as segments_module
from slimrl.algorithms.prefix_trie import PrefixTrie, build_trie
from slimrl.algorithms.segments import attention_segments

sequence_lists = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=10), min_size=1, max_size=12)


def as_arrays(sequences: list[list[int]]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def mask_of_segments(trie: PrefixTrie) -> np.ndarray:
    mask = np.zeros((len(trie), len(trie)), dtype=bool)
    covered = 0
    for segment in attention_segments(trie):
        assert segment.start == covered
        covered = segment.end
        size = segment.end - segment.start
        own = np.tri(size, dtype=bool) if segment.mask is None else segment.mask
        mask[segment.start : segment.end, segment.context] = own[:, : len(segment.context)]
        mask[segment.start : segment.end, segment.start : segment.end] = own[:, len(segment.context) :]
    assert covered == len(trie)
    return mask


@given(sequence_lists, st.booleans())
def test_paths_spell_the_sequences(sequences: list[list[int]], share: bool) -> None:
    trie = build_trie(as_arrays(sequences), share=share)
    for sequence, path in zip(sequences, trie.paths, strict=True):
        assert trie.tokens[path].tolist() == sequence
        assert trie.positions[path].tolist() == list(range(len(sequence)))


@given(sequence_lists)
def test_every_distinct_prefix_is_one_node(sequences: list[list[int]]) -> None:
    prefixes = {tuple(sequence[: i + 1]) for sequence in sequences for i in range(len(sequence))}
    assert len(build_trie(as_arrays(sequences))) == len(prefixes)


@given(sequence_lists)
def test_without_sharing_every_token_is_a_node(sequences: list[list[int]]) -> None:
    assert len(build_trie(as_arrays(sequences), share=False)) == sum(map(len, sequences))


@given(sequence_lists, st.booleans())
def test_a_node_sees_exactly_its_prefix(sequences: list[list[int]], share: bool) -> None:
    trie = build_trie(as_arrays(sequences), share=share)
    mask = trie.ancestor_mask()
    for path in trie.paths:
        for i, node in enumerate(path):
            assert np.flatnonzero(mask[node]).tolist() == sorted(path[: i + 1].tolist())


@given(sequence_lists, st.booleans())
def test_segments_are_the_ancestor_mask(sequences: list[list[int]], share: bool) -> None:
    trie = build_trie(as_arrays(sequences), share=share)
    assert (mask_of_segments(trie) == trie.ancestor_mask()).all()


def test_long_tails_are_cut_and_short_ones_merged() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 1000, 40)
    long = [np.concatenate((prompt, rng.integers(0, 1000, 1500))) for _ in range(3)]
    short = [np.concatenate((prompt, rng.integers(0, 1000, 5))) for _ in range(30)]
    trie = build_trie([*long, *short])
    assert (mask_of_segments(trie) == trie.ancestor_mask()).all()
    masked = [segment for segment in attention_segments(trie) if segment.mask is not None]
    assert max(segment.end - segment.start for segment in masked) <= segments_module.MAX_RUN
    assert len(attention_segments(trie)) < 3 * 4 + 30


def test_sequences_that_share_nothing_are_plain_causal_segments() -> None:
    trie = build_trie(as_arrays([[1] * 300, [2] * 300]))
    assert [(s.end - s.start, s.mask is None, len(s.context)) for s in attention_segments(trie)] == [
        (300, True, 0),
        (300, True, 0),
    ]


def test_a_demo_sized_batch_is_planned_in_milliseconds() -> None:
    rng = np.random.default_rng(0)
    system = rng.integers(0, 49152, 30)
    prompts = [np.concatenate((system, rng.integers(0, 49152, 9))) for _ in range(8)]
    sequences = [np.concatenate((prompt, rng.integers(0, 4, 60))) for prompt in prompts for _ in range(8)]
    attention_segments(build_trie(sequences))
    started = time.process_time()
    attention_segments(build_trie(sequences))
    assert time.process_time() - started < 0.05


def test_thousands_of_long_sequences_are_merged_in_seconds() -> None:
    rng = np.random.default_rng(0)
    system = rng.integers(0, 49152, 30)
    sequences = [np.concatenate((system, rng.integers(0, 49152, 3000))) for _ in range(2000)]
    started = time.process_time()
    build_trie(sequences)
    assert time.process_time() - started < 5.0
