"""The share of the time in which nothing is generated."""

from __future__ import annotations

import asyncio

from slimrl.rollout.activity import Activity
from slimrl.types import Group


def test_overlapping_groups_count_once_and_every_call_begins_anew() -> None:
    clock = [0.0]
    activity = Activity(lambda: clock[0])

    async def produce(group: Group) -> Group:
        clock[0] += 1.0
        await asyncio.sleep(0)
        clock[0] += 1.0
        return group

    async def go() -> None:
        watched = activity.watched(produce)
        clock[0] = 4.0  # nothing until then
        await asyncio.gather(watched(Group(0, [])), watched(Group(1, [])))
        assert clock[0] == 8.0
        assert activity.idle_share() == 0.5
        clock[0] = 9.0
        assert activity.idle_share() == 1.0
        await watched(Group(2, []))
        assert activity.idle_share() == 0.0
        assert activity.idle_share() == 0.0, "no time has passed"

    asyncio.run(go())
