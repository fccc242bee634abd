"""The stream of groups: epochs, shuffling, seeds, position."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from slimrl.data.prompts import PromptRow
from slimrl.data.source import PromptSource, sample_seed


class Rows:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> PromptRow:
        return PromptRow(prompt=str(index), label=index)

    def where(self, index: int) -> str:
        return f"rows:{index}"


def encode(row: PromptRow, where: str) -> list[int]:
    return [int(str(row.prompt))]


def make(count: int, shuffle: bool = True, size: int = 2, seed: int = 0) -> PromptSource:
    return PromptSource(Rows(count), encode, group_size=size, shuffle=shuffle, seed=seed)


@given(rows=st.integers(1, 7), takes=st.lists(st.integers(0, 9), max_size=6), shuffle=st.booleans())
def test_every_epoch_holds_every_prompt_once(rows: int, takes: list[int], shuffle: bool) -> None:
    source = make(rows, shuffle)
    labels = [group.samples[0].label for count in takes for group in source.take(count)]
    epochs = [labels[i : i + rows] for i in range(0, len(labels), rows)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch)
        assert shuffle or epoch == list(range(len(epoch)))


@given(rows=st.integers(1, 7), before=st.integers(0, 20), after=st.integers(0, 9))
def test_a_restored_position_goes_on_to_the_sample(rows: int, before: int, after: int) -> None:
    source = make(rows)
    source.take(before)
    state = json.loads(json.dumps(source.state()))
    expected = source.take(after)
    other = make(rows)
    other.restore(state)
    assert other.take(after) == expected


def test_epochs_are_shuffled_differently_and_the_same_in_every_run() -> None:
    order = [[g.samples[0].label for g in s.take(20)] for s in (make(10), make(10))]
    assert order[0] == order[1]
    assert order[0][:10] != order[0][10:]


def test_ids_and_seeds_are_unique_and_independent_of_the_way_they_are_taken() -> None:
    whole = make(3).take(4)
    source = make(3)
    parts = [group for _ in range(4) for group in source.take(1)]
    assert parts == whole
    samples = [s for g in whole for s in g]
    assert [s.sample_id for s in samples] == list(range(8))
    assert len({s.seed for s in samples}) == 8
    assert all(0 <= s.seed < 2**31 for s in samples)
    assert sample_seed(1, 5) != sample_seed(2, 5)
