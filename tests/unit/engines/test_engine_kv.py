"""Slots against a dictionary that does the same slowly."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import given
from hypothesis import strategies as st

from slimrl.engines.embedded.kv import SlotShape, SlotStore, capacity_for

SHAPE = SlotShape(2, 1, 2, torch.float32, torch.device("cpu"))


@dataclass(eq=False)
class Sequence:
    slot: int = -1
    capacity: int = 0
    marks: list[float] = field(default_factory=list)


def _write(store: SlotStore[Sequence], owner: Sequence, mark: float) -> None:
    if len(owner.marks) == owner.capacity:
        store.grow(owner, len(owner.marks))
    pool = store.pool_of(owner)
    pool.keys[:, owner.slot, :, len(owner.marks)] = mark
    pool.values[:, owner.slot, :, len(owner.marks)] = -mark
    owner.marks.append(mark)


@given(st.lists(st.tuples(st.sampled_from(["add", "write", "fork", "remove"]), st.integers(0, 40)), max_size=60))
def test_every_sequence_finds_its_own_numbers_after_any_moves(actions: list[tuple[str, int]]) -> None:
    store: SlotStore[Sequence] = SlotStore(SHAPE)
    owners: list[Sequence] = []
    mark = 0.0
    for action, number in actions:
        if action == "add" or not owners:
            owners.append(Sequence())
            store.add(owners[-1], 1)
            continue
        owner = owners[number % len(owners)]
        if action == "write":
            for _ in range(number):
                mark += 1
                _write(store, owner, mark)
        elif action == "fork":
            twin = Sequence(marks=owner.marks[:])
            store.add(twin, max(1, len(owner.marks)))
            store.copy(owner, twin, len(owner.marks))
            owners.append(twin)
        else:
            owners.remove(owner)
            store.remove(owner)
    assert store.tokens_held == sum(owner.capacity for owner in owners)
    for pool in store.pools():
        assert [owner.slot for owner in pool.owners] == list(range(len(pool.owners)))
    for owner in owners:
        pool = store.pool_of(owner)
        assert pool.keys[1, owner.slot, 0, : len(owner.marks), 1].tolist() == owner.marks
        assert pool.values[0, owner.slot, 0, : len(owner.marks), 0].tolist() == [-mark for mark in owner.marks]


@given(st.integers(1, 100_000))
def test_a_capacity_holds_its_length_and_wastes_less_than_half(length: int) -> None:
    capacity = capacity_for(length)
    assert capacity >= length
    assert capacity == 16 or capacity < 2 * length


def test_an_empty_store_gives_its_memory_back() -> None:
    store: SlotStore[Sequence] = SlotStore(SHAPE)
    owner = Sequence()
    store.add(owner, 100)
    store.remove(owner)
    assert store.pools() == []
    assert store.tokens_held == 0
