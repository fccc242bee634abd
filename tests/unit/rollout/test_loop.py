"""Filling a batch under random timing, filters and over-sampling."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.data.buffer import Buffer, is_finished
from slimrl.errors import RolloutError
from slimrl.rollout.loop import Filled, FillSettings, fill
from slimrl.types import Group, Sample, Score, Verdict
from slimrl_filters.buffer import pop_first


class Counting:
    """An endless source that remembers what it handed out."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> list[Group]:
        groups = [Group(i, [Sample(i, i, i, "p", [1])]) for i in range(self.next, self.next + count)]
        self.next += count
        return groups

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


def producer(seed: int, *, unscored: bool = False):  # type: ignore[no-untyped-def]
    rng = random.Random(seed)

    async def produce(group: Group) -> Group:
        for _ in range(rng.randint(0, 4)):
            await asyncio.sleep(0)
        for sample in group:
            sample.append([7], [-1.0], [0])
            score = Score.scored(group.group_id % 3) if not unscored else Score("error", reason="it broke")
            sample.score = score
        return group

    return produce


def keep_two_thirds(group: Group) -> Verdict:
    return Verdict(keep=group.group_id % 3 != 0, reason="" if group.group_id % 3 else "third")


def run(source: Counting, buffer: Buffer, settings_: FillSettings, seed: int, **kwargs: Any) -> Filled:
    return asyncio.run(fill(source, buffer, producer(seed, **kwargs), keep_two_thirds, settings_))


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.integers(1, 6),
    extra=st.integers(0, 6),
    in_order=st.booleans(),
    seed=st.integers(0, 99),
    rounds=st.integers(1, 4),
)
def test_every_prompt_is_kept_dropped_or_in_the_buffer_exactly_once(
    wanted: int, extra: int, in_order: bool, seed: int, rounds: int
) -> None:
    source, buffer = Counting(), Buffer(pop_first)
    how = FillSettings(wanted, wanted + extra, max_finished=99, in_order=in_order)
    seen: list[int] = []
    for step in range(rounds):
        filled = run(source, buffer, how, seed + step)
        assert len(filled.kept) == wanted
        assert all(g.group_id % 3 for g in filled.kept)
        seen += [g.group_id for g in filled.kept + filled.dropped]
    seen += [g.group_id for g in buffer.groups]
    assert sorted(seen) == list(range(source.next))


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_in_order_the_batch_does_not_depend_on_timing(seed: int) -> None:
    how = FillSettings(4, 6, max_finished=99, in_order=True)
    ids = []
    for timing in (seed, seed + 1000):
        source, buffer = Counting(), Buffer(pop_first)
        ids.append([[g.group_id for g in run(source, buffer, how, timing + i).kept] for i in range(3)])
    assert ids[0] == ids[1]


def test_surplus_finished_groups_open_the_next_batch_without_being_generated_again() -> None:
    source, buffer = Counting(), Buffer(pop_first)
    run(source, buffer, FillSettings(2, 6, max_finished=99, in_order=True), 0)
    kept_over = [g.group_id for g in buffer.groups if is_finished(g)]
    assert kept_over
    tokens = {g.group_id: list(g.samples[0].tokens) for g in buffer.groups if is_finished(g)}
    filled = run(source, buffer, FillSettings(2, 2, max_finished=99, in_order=True), 1)
    for group in filled.kept:
        assert group.samples[0].tokens == tokens.get(group.group_id, [7])


def test_a_filter_that_keeps_nothing_ends_with_the_reason() -> None:
    source, buffer = Counting(), Buffer(pop_first)

    async def nothing() -> Filled:
        return await fill(
            source, buffer, producer(0), lambda g: Verdict(False, "boring"), FillSettings(2, 4, max_finished=6)
        )

    with pytest.raises(RolloutError, match=r"only 0 of 2 kept \(dropped: boring [6-9]x"):
        asyncio.run(nothing())


def test_groups_kept_so_far_are_in_the_buffer_when_a_batch_cannot_be_filled() -> None:
    source, buffer = Counting(), Buffer(pop_first)
    with pytest.raises(RolloutError):
        run(source, buffer, FillSettings(8, 8, max_finished=8, in_order=True), 0)
    kept = [g.group_id for g in buffer.groups if is_finished(g) and g.group_id % 3]
    assert kept == [1, 2, 4, 5, 7]


def test_groups_without_a_single_score_are_dropped_and_the_reason_is_told() -> None:
    source, buffer = Counting(), Buffer(pop_first)
    with pytest.raises(RolloutError, match="unscored 4x; it broke"):
        run(source, buffer, FillSettings(2, 2, max_finished=4, in_order=True), 0, unscored=True)
