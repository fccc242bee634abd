"""Filling one batch: prompts out, finished groups in, until enough of them are worth training on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from slimrl.data.buffer import Buffer, is_finished
from slimrl.errors import RolloutError
from slimrl.protocols import DataSource, DynamicFilter
from slimrl.rollout.unscored import first_failure, too_many
from slimrl.types import Group, Verdict

Produce = Callable[[Group], Awaitable[Group]]
"""Generate and score a group's samples; never raises for what a sample, a tool or a reward did."""


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
    source: DataSource, buffer: Buffer, produce: Produce, keep: DynamicFilter | None, settings: FillSettings
) -> Filled:
    """Produce groups until `settings.wanted` pass the filter; what is left over goes back to the buffer.

    Raises RolloutError when `settings.max_finished` groups did not fill the batch, or when rewards fail; every group
    that was in hand is in the buffer then, but for those that were dropped.
    """
    filled = Filled()
    running: set[asyncio.Task[Group]] = set()
    surplus: list[Group] = []
    try:
        while len(filled.kept) < settings.wanted:
            if filled.finished >= settings.max_finished:
                raise RolloutError(_gave_up(filled, settings))
            running |= _start(source, buffer, produce, len(filled.kept), len(running), settings)
            done, running = await asyncio.wait(
                running, return_when=asyncio.ALL_COMPLETED if settings.in_order else asyncio.FIRST_COMPLETED
            )
            for group in sorted((task.result() for task in done), key=lambda g: g.group_id):
                if len(filled.kept) == settings.wanted:
                    surplus.append(group)
                    continue
                group.verdict = judge(group, keep)
                (filled.kept if group.verdict.keep else filled.dropped).append(group)
            if trouble := _reward_trouble(filled, settings):
                raise RolloutError(trouble)
    except RolloutError:
        surplus += filled.kept
        raise
    finally:
        for group in surplus + await _stop(running):
            buffer.add(group)
    filled.kept.sort(key=lambda g: g.group_id)
    return filled


def judge(group: Group, keep: DynamicFilter | None) -> Verdict:
    """The filter's verdict; a group in which no sample has a score teaches nothing and is dropped."""
    if all(sample.value is None for sample in group):
        return Verdict(keep=False, reason="unscored")
    return Verdict(keep=True) if keep is None else keep(group)


def _reward_trouble(filled: Filled, settings: FillSettings) -> str:
    groups = filled.kept + filled.dropped
    if settings.stop_on_unscored and (failure := first_failure(groups)):
        return failure
    return too_many(groups, settings.max_unscored_fraction) if filled.finished >= settings.wanted else ""


def _start(
    source: DataSource, buffer: Buffer, produce: Produce, kept: int, running: int, settings: FillSettings
) -> set[asyncio.Task[Group]]:
    # Refill by what is missing: the cushion of surplus groups in flight stays as large as it was at the start.
    missing = max(settings.in_flight - kept - running, 0)
    groups = buffer.take(missing)
    groups += source.take(missing - len(groups))
    return {asyncio.create_task(_produced(group, produce), name=f"group-{group.group_id}") for group in groups}


async def _produced(group: Group, produce: Produce) -> Group:
    if is_finished(group):  # a surplus group of an earlier rollout
        return group
    try:
        return await produce(group)
    except asyncio.CancelledError:
        return group  # cut off: the buffer starts it over


async def _stop(running: set[asyncio.Task[Group]]) -> list[Group]:
    for task in running:
        task.cancel()
    stopped = await asyncio.gather(*running)
    return sorted(stopped, key=lambda g: g.group_id)


def _gave_up(filled: Filled, settings: FillSettings) -> str:
    reasons = Counter(g.verdict.reason or "no reason given" for g in filled.dropped if g.verdict)
    said = ", ".join(f"{reason} {count}x" for reason, count in reasons.most_common())
    failures = Counter(s.reason for g in filled.dropped for s in g if s.reason)
    failures += Counter(s.score.reason for g in filled.dropped for s in g if s.score and s.score.reason)
    first = "".join(f"; {reason} ({count}x)" for reason, count in failures.most_common(2))
    return (
        f"{filled.finished} groups were finished but only {len(filled.kept)} of {settings.wanted} kept "
        f"(dropped: {said}{first}); use easier or harder prompts, another filter, or raise --max-sampling-rounds"
    )
