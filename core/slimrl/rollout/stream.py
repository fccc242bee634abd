"""Batches while a trainer trains: groups are in flight all the time, and none is trained on too late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from slimrl.data.buffer import Buffer, group_state, is_finished, start_over
from slimrl.errors import RolloutError
from slimrl.protocols import DataSource, DynamicFilter
from slimrl.rollout.loop import Filled, FillSettings, Produce, fall_back_on, judge, reward_trouble
from slimrl.types import Group


@dataclass(eq=False)
class Underway:
    """A group between the prompts and a batch."""

    group: Group
    version: int
    """The oldest weights that one of its tokens may be of."""


class Stream:
    """Keeps groups in flight over the steps of a run, so that a batch may be ready when it is asked for.

    A token is at most `max_staleness` weight versions behind when it is trained on. Two rules see to that. While the
    engine serves version v, no more groups are under way than the steps up to v + max_staleness train. And a batch is
    not taken, although enough groups are ready, where it would leave more groups of version u or older in flight than
    the steps up to u + max_staleness can take: it waits for one of those. So nothing is made for nobody.

    More than one batch is under way only because the trainer had to wait: while it is busy, what is started beyond the
    next batch would just be older when it is trained on.
    """

    def __init__(
        self,
        source: DataSource,
        buffer: Buffer,
        produce: Produce,
        keep: DynamicFilter | None,
        settings: FillSettings,
        *,
        max_staleness: int,
        num_steps: int,
    ) -> None:
        self._source = source
        self._buffer = buffer
        self._produce = produce
        self._keep = keep
        self._settings = settings
        self._max_staleness = max_staleness
        self._num_steps = num_steps
        self._step = self._version = 0
        self._missing = 0
        """Groups that may be started now."""
        self._running: dict[asyncio.Task[None], Underway] = {}
        self._ready: list[Underway] = []
        self._dropped: list[Underway] = []
        self._trouble: Exception | None = None
        self._changed = asyncio.Event()
        self._num_too_old = 0

    async def batch(self, step: int, version: int) -> Filled:
        """The batch of one step, while the engine serves the weights `version`; generation goes on behind it.

        Raises RolloutError when the budget of groups did not fill it, or when rewards fail; nothing is lost then.
        """
        self._step, self._version = step, version
        while True:
            if self._trouble is not None:
                raise self._trouble
            if not self._must_wait():
                if len(self._ready) >= self._settings.wanted:
                    filled = self._taken()
                    break
                if self._is_spent():
                    filled = self._fallen_back()
                    break
            self._start(steps=1 + self._steps_ahead())
            self._changed.clear()
            await self._changed.wait()
        self._start(steps=min(1, self._steps_ahead()))
        return filled

    def metrics(self) -> dict[str, float]:
        """Groups that wait for the next batch, that are in flight, and that were too old and started over."""
        too_old, self._num_too_old = self._num_too_old, 0
        return {
            "rollout/queue_groups": float(len(self._ready)),
            "rollout/in_flight_groups": float(len(self._running)),
            "rollout/too_old_groups": float(too_old),
        }

    def state(self) -> list[dict[str, Any]]:
        """Every group under way as JSON values, for a resumed run's buffer: what is in flight starts over there."""
        running = [start_over(deepcopy(one.group)) for one in self._running.values()]
        return [group_state(group) for group in (*_groups(self._ready), *running, *_groups(self._dropped))]

    async def close(self) -> None:
        """Stop everything that is in flight."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _steps_ahead(self) -> int:
        """Steps behind this one that may be generated for under the weights of now."""
        return min(self._version + self._max_staleness, self._num_steps - 1) - self._step

    def _start(self, steps: int) -> None:
        """Start what the groups of so many steps lack."""
        self._missing = self._settings.wanted * steps - len(self._ready) - len(self._running)
        self._refill()

    def _refill(self) -> None:
        count = min(self._missing, self._settings.in_flight - len(self._running))
        if count <= 0 or self._is_spent() or self._trouble is not None:
            return
        groups = self._buffer.take(count)
        groups += self._source.take(count - len(groups))
        self._missing -= len(groups)
        for group in groups:
            if oldest_version(group, self._version) < self._step - self._max_staleness:
                start_over(group)  # a resumed run's, which had a larger bound or other filters
                self._num_too_old += 1
            underway = Underway(group, oldest_version(group, self._version))
            self._running[asyncio.create_task(self._run(underway), name=f"group-{group.group_id}")] = underway

    async def _run(self, underway: Underway) -> None:
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        try:
            if not is_finished(underway.group):  # else one that a resumed run had ready
                underway.group = await self._produce(underway.group)
            self._settle(underway)
        except Exception as error:  # raised where the next batch is waited for
            self._trouble = self._trouble or error
        finally:
            del self._running[task]
        self._refill()
        self._changed.set()

    def _settle(self, underway: Underway) -> None:
        group = underway.group
        group.verdict = judge(group, self._keep)
        if group.verdict.keep:
            self._ready.append(underway)
        else:
            self._dropped.append(underway)
            self._missing += 1
        everything = Filled(_groups(self._ready), _groups(self._dropped))
        if trouble := reward_trouble(everything, [group], self._settings):
            self._trouble = RolloutError(trouble)

    def _must_wait(self) -> bool:
        """Whether a batch that is taken now would leave too many old groups in flight."""
        for version in {one.version for one in self._running.values()}:
            left = sum(one.version <= version for one in self._running.values())
            ready = sum(one.version <= version for one in self._ready)
            steps = version + self._max_staleness - self._step
            if left > self._settings.wanted * steps and ready < self._settings.wanted:
                return True
        return False

    def _is_spent(self) -> bool:
        """Whether the budget of one batch is used up and did not fill it."""
        ready = len(self._ready)
        return ready < self._settings.wanted and ready + len(self._dropped) >= self._settings.max_finished

    def _taken(self) -> Filled:
        self._ready.sort(key=lambda one: (one.version, one.group.group_id))
        wanted = self._settings.wanted
        kept, self._ready = self._ready[:wanted], self._ready[wanted:]
        return self._filled(_groups(kept))

    def _fallen_back(self) -> Filled:
        fresh = [one.group for one in self._dropped if one.version >= self._step - self._max_staleness]
        filled = Filled(_groups(self._ready), fresh)
        fall_back_on(filled, self._settings)
        kept = {id(group) for group in filled.kept}
        self._dropped = [one for one in self._dropped if id(one.group) not in kept]
        self._ready = []
        return self._filled(filled.kept)

    def _filled(self, kept: list[Group]) -> Filled:
        filled = Filled(sorted(kept, key=lambda group: group.group_id), _groups(self._dropped))
        self._dropped = []
        return filled


def oldest_version(group: Group, current: int) -> int:
    """The oldest weights that tokens of a group are of; `current` where there are none, or none that are numbered."""
    versions = [version for sample in group for version in sample.weight_versions if version >= 0]
    return min(versions, default=current)


def _groups(underway: Sequence[Underway]) -> list[Group]:
    return [one.group for one in underway]
