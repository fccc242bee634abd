"""Epochs over weighted files: what they hold, that they are fair, and that they depend on seed and epoch alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.data.epoch import Part, epoch_order, epoch_size

PARTS = st.lists(
    st.builds(Part, st.integers(1, 9), st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.3])), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(parts=PARTS, epochs=st.integers(1, 12), shuffle=st.booleans(), seed=st.integers(0, 5))
def test_every_part_comes_as_often_as_its_weight_says_and_no_prompt_before_its_turn(
    parts: list[Part], epochs: int, shuffle: bool, seed: int
) -> None:
    seen = Counter[int]()
    firsts = [sum(part.count for part in parts[:i]) for i in range(len(parts))]
    for epoch in range(epochs):
        order = epoch_order(parts, epoch, shuffle=shuffle, seed=seed).tolist()
        assert len(order) == epoch_size(parts)
        seen.update(order)
        for first, part in zip(firsts, parts, strict=True):
            own = range(first, first + part.count)
            assert sum(index in own for index in order) == part.per_epoch
            counts = [seen[index] for index in own]
            assert max(counts) - min(counts) <= 1


@given(parts=PARTS, epoch=st.integers(0, 30), seed=st.integers(0, 5))
def test_an_order_depends_on_its_arguments_alone(parts: list[Part], epoch: int, seed: int) -> None:
    orders = [epoch_order(parts, epoch, shuffle=True, seed=seed) for _ in range(2)]
    assert np.array_equal(*orders)


def test_files_of_weight_one_are_one_permutation_of_all_their_prompts() -> None:
    order = epoch_order([Part(30), Part(70)], 3, shuffle=True, seed=1)
    expected = np.arange(100)
    np.random.default_rng([1, 3]).shuffle(expected)
    assert np.array_equal(order, expected)


def test_without_shuffling_files_are_interleaved_evenly_each_in_its_own_order() -> None:
    order = epoch_order([Part(2), Part(4)], 0, shuffle=False, seed=0).tolist()
    assert order == [2, 0, 3, 4, 1, 5]
    assert epoch_order([Part(3)], 5, shuffle=False, seed=0).tolist() == [0, 1, 2]


def test_half_a_file_an_epoch_is_the_other_half_in_the_next() -> None:
    parts = [Part(10, 0.5), Part(1)]
    first, second = ({i for i in epoch_order(parts, e, shuffle=True, seed=4).tolist() if i < 10} for e in (0, 1))
    assert len(first) == 5 and first | second == set(range(10))
