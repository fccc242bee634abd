"""Filling one batch: prompts out, finished groups in, until enough of them are worth training on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from slimrl.data.buffer import Buffer, is_finished
from slimrl.errors import RolloutError
from slimrl.protocols import DataSource, DynamicFilter
from slimrl.rollout.insufficient import fall_back, why_not_filled
from slimrl.rollout.unscored import first_failure, too_many
from slimrl.types import Group, Verdict

Produce = Callable[[Group], Awaitable[Group]]
"""Generate and score a group's samples; never raises for what a sample, a tool or a reward did."""

CutOff = Callable[[], Awaitable[None]]
"""End what is being generated, so that each group comes back with what it has."""

GRACE_S: Final = 1.0
"""How long a group may take to come back after that: what it has is being scored, or a tool runs."""


@dataclass(frozen=True)
class FillSettings:
    """How many groups to keep, how many to have in flight, when to give up."""

    wanted: int
    in_flight: int
    max_finished: int
    in_order: bool = False
    """Accept groups in order of their id, whole waves at a time: slower, but independent of timing."""
    max_unscored_fraction: float = 1.0
    """Give up when a larger share of samples than this could not be scored, once `wanted` groups were finished."""
    stop_on_unscored: bool = False
    """Give up at the first sample that could not be scored."""
    falls_back: bool = False
    """Fill the batch with dropped groups instead of giving up."""
    left: int | None = None
    """Groups that the rest of the run trains on, with this batch; no prompt is taken that would be beyond them."""


@dataclass
class Filled:
    """One batch: the groups kept, in order of group id, and those a filter dropped."""

    kept: list[Group] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """Groups that were finished to fill this batch."""
        return len(self.kept) + len(self.dropped)


async def fill(
    source: DataSource,
    buffer: Buffer,
    produce: Produce,
    keep: DynamicFilter | None,
    settings: FillSettings,
    cut_off: CutOff | None = None,
) -> Filled:
    """Produce groups until `settings.wanted` pass the filter; what is left over goes back to the buffer.

    With `cut_off` groups that are not finished then bring along what they have. Raises RolloutError when
    `settings.max_finished` groups did not fill the batch, or when rewards fail; every group that was in hand is in
    the buffer then, but for those that were dropped.
    """
    filled = Filled()
    running: set[asyncio.Task[Group]] = set()
    surplus: list[Group] = []
    try:
        while len(filled.kept) < settings.wanted:
            if filled.finished >= settings.max_finished:
                fall_back_on(filled, settings)
                break
            running |= _start(source, buffer, produce, len(filled.kept), len(running), settings)
            done, running = await asyncio.wait(
                running, return_when=asyncio.ALL_COMPLETED if settings.in_order else asyncio.FIRST_COMPLETED
            )
            judged: list[Group] = []
            for group in sorted((task.result() for task in done), key=lambda g: g.group_id):
                if len(filled.kept) == settings.wanted:
                    surplus.append(group)
                    continue
                group.verdict = judge(group, keep)
                (filled.kept if group.verdict.keep else filled.dropped).append(group)
                judged.append(group)
            if trouble := reward_trouble(filled, judged, settings):
                raise RolloutError(trouble)
    except RolloutError:
        surplus += filled.kept
        raise
    finally:
        for group in surplus + await _stop(running, cut_off):
            buffer.add(group)
    filled.kept.sort(key=lambda g: g.group_id)
    return filled


def judge(group: Group, keep: DynamicFilter | None) -> Verdict:
    """The filter's verdict; a group in which no sample has a score teaches nothing and is dropped."""
    if all(sample.value is None for sample in group):
        return Verdict(keep=False, reason="unscored")
    return Verdict(keep=True) if keep is None else keep(group)


def reward_trouble(filled: Filled, judged: list[Group], settings: FillSettings) -> str:
    """Why the run ends after these groups were judged, which are in `filled`; empty where it does not."""
    failure = first_failure(judged)
    if failure and settings.stop_on_unscored:
        return failure
    before = filled.finished - len(judged)
    if filled.finished < settings.wanted or (before >= settings.wanted and not failure):
        return ""  # a share that was not too large is not after groups without a failure
    return too_many(filled.kept + filled.dropped, settings.max_unscored_fraction)


def _start(
    source: DataSource, buffer: Buffer, produce: Produce, kept: int, running: int, settings: FillSettings
) -> set[asyncio.Task[Group]]:
    # Refill by what is missing: the cushion of surplus groups in flight stays as large as it was at the start.
    missing = max(settings.in_flight - kept - running, 0)
    groups = buffer.take(missing)
    new = missing - len(groups)
    if settings.left is not None:
        under_way = kept + running + len(groups) + len(buffer.groups)
        new = max(min(new, settings.left - under_way), not running and not groups)
    groups += source.take(new)
    return {asyncio.create_task(_produced(group, produce), name=f"group-{group.group_id}") for group in groups}


async def _produced(group: Group, produce: Produce) -> Group:
    if is_finished(group):  # a surplus group of an earlier rollout
        return group
    try:
        return await produce(group)
    except asyncio.CancelledError:
        return group  # cut off: the buffer keeps of it what can be gone on with


async def _stop(running: set[asyncio.Task[Group]], cut_off: CutOff | None) -> list[Group]:
    try:
        if cut_off is not None and running:
            await cut_off()
            await asyncio.wait(running, timeout=GRACE_S)
    finally:
        for task in running:
            task.cancel()
    stopped = await asyncio.gather(*running)
    return sorted(stopped, key=lambda g: g.group_id)


def fall_back_on(filled: Filled, settings: FillSettings) -> None:
    """Fill the batch with dropped groups, as far as that is allowed; raises RolloutError where it does not suffice."""
    missing = settings.wanted - len(filled.kept)
    taken = fall_back(filled.dropped, missing, any_group=settings.falls_back)
    filled.kept += taken
    if len(taken) < missing:
        raise RolloutError(why_not_filled(len(filled.kept), settings.wanted, filled.dropped))
