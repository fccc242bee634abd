"""Stored samples under another reward: what changes in rewards, in the groups that are kept and in advantages."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slimrl.estimator import Estimate
from slimrl.protocols import DynamicFilter
from slimrl.rollout.batch import trainable
from slimrl.rollout.loop import judge
from slimrl.types import AdvantageInput, Group, Sample

MAX_EXAMPLES: Final = 3
MAX_GROUPS_IN_FLIGHT: Final = 64
TOLERANCE: Final = 1e-9
"""Values that differ by less are the same: a mix may add its components in another order."""
STATUSES: Final = ("scored", "abstained", "error", "timeout")

ScoreGroup = Callable[[Group], Awaitable[None]]
"""Gives every sample of a group that has no score one."""


@dataclass
class Moments:
    """Sums over pairs of advantages, which may be added up: their number, sums, squares and products."""

    num: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))
    sign_changes: int = 0
    """Pairs whose signs differ, 0 being a sign of its own."""
    reversals: int = 0
    """Pairs of which one is above 0 and one below."""

    @classmethod
    def of(cls, old: NDArray[np.float64], new: NDArray[np.float64]) -> Moments:
        """Of two arrays with one entry a sample."""
        return cls(
            num=len(old),
            sums=np.array([old.sum(), new.sum(), old @ old, new @ new, old @ new]),
            sign_changes=int((np.sign(old) != np.sign(new)).sum()),
            reversals=int((old * new < 0).sum()),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def correlation(self) -> float | None:
        """Pearson's; None where one side is constant."""
        if self.num < 2:
            return None
        old, new, old_old, new_new, old_new = self.sums / self.num
        variance_old, variance_new = old_old - old**2, new_new - new**2
        if min(variance_old, variance_new) <= 1e-12:
            return None
        return float(np.clip((old_new - old * new) / math.sqrt(variance_old * variance_new), -1, 1))


@dataclass(frozen=True)
class Example:
    """One sample whose reward is another."""

    sample_id: int
    old: float | None
    new: float | None
    reason: str
    """Why it has no new reward, where it has none."""
    response: str
    """Its end."""

    @property
    def size(self) -> float:
        """How far the rewards are apart; one that is missing is farthest."""
        return math.inf if self.old is None or self.new is None else abs(self.new - self.old)


@dataclass
class Change:
    """What another reward changes, over one step or many: they may be added up."""

    num_samples: int = 0
    old: Counter[str] = field(default_factory=Counter)
    """Samples by status."""
    new: Counter[str] = field(default_factory=Counter)
    sum_old: float = 0.0
    sum_new: float = 0.0
    changed: int = 0
    """Samples whose reward is another, or that have one under one reward alone."""
    num_groups: int = 0
    kept_old: int = 0
    kept_new: int = 0
    newly_kept: int = 0
    newly_dropped: int = 0
    advantages: Moments = field(default_factory=Moments)
    """Over the samples that are trained on under both."""
    examples: list[Example] = field(default_factory=list)

    def __add__(self, other: Change) -> Change:
        added = Change(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))
        added.examples = sorted(added.examples, key=lambda one: -one.size)[:MAX_EXAMPLES]
        return added

    def as_dict(self) -> dict[str, Any]:  # Any: JSON values
        """The same as JSON values."""
        return {
            "samples": self.num_samples,
            "reward": {
                "mean_old": _mean(self.sum_old, self.old["scored"]),
                "mean_new": _mean(self.sum_new, self.new["scored"]),
                "changed": self.changed,
                "status_old": {status: self.old[status] for status in STATUSES},
                "status_new": {status: self.new[status] for status in STATUSES},
                "examples": [{field.name: getattr(one, field.name) for field in fields(one)} for one in self.examples],
            },
            "groups": {
                "groups": self.num_groups,
                "kept_old": self.kept_old,
                "kept_new": self.kept_new,
                "newly_kept": self.newly_kept,
                "newly_dropped": self.newly_dropped,
            },
            "advantages": {
                "compared": self.advantages.num,
                "sign_changes": self.advantages.sign_changes,
                "reversals": self.advantages.reversals,
                "correlation": self.advantages.correlation,
            },
        }


@dataclass(frozen=True)
class Rescored:
    """A step's groups under both rewards, in the same order, and the advantages of what is trained on."""

    old: list[Group]
    new: list[Group]
    old_advantages: dict[int, float]
    """By sample id."""
    new_advantages: dict[int, float]


async def rescore(
    groups: Sequence[Group], score: ScoreGroup, keep: DynamicFilter | None, estimate: Estimate
) -> Rescored:
    """Score, judge and estimate the groups anew; the old verdicts stand where they were recorded."""
    places = asyncio.Semaphore(MAX_GROUPS_IN_FLIGHT)

    async def one(group: Group) -> Group:
        fresh = replace(group, samples=[replace(sample, score=None) for sample in group])
        async with places:
            await score(fresh)
        fresh.verdict = judge(fresh, keep)
        return fresh

    old = [replace(group, verdict=group.verdict or judge(group, keep)) for group in groups]
    new = list(await asyncio.gather(*(one(group) for group in groups)))
    return Rescored(old, new, _advantages(old, estimate), _advantages(new, estimate))


def compare(rescored: Rescored) -> Change:
    """What the new reward changes in a step."""
    change = Change(num_groups=len(rescored.old))
    for old, new in zip(rescored.old, rescored.new, strict=True):
        was_kept, is_kept = _is_kept(old), _is_kept(new)
        change.kept_old += was_kept
        change.kept_new += is_kept
        change.newly_kept += is_kept and not was_kept
        change.newly_dropped += was_kept and not is_kept
        for before, after in zip(old, new, strict=True):
            _add(change, before, after)
    change.examples = sorted(change.examples, key=lambda one: -one.size)[:MAX_EXAMPLES]
    both = sorted(rescored.old_advantages.keys() & rescored.new_advantages.keys())
    change.advantages = Moments.of(
        np.array([rescored.old_advantages[sample] for sample in both], np.float64),
        np.array([rescored.new_advantages[sample] for sample in both], np.float64),
    )
    return change


def _add(change: Change, before: Sample, after: Sample) -> None:
    change.num_samples += 1
    change.old[before.score.status if before.score else "abstained"] += 1
    change.new[after.score.status if after.score else "abstained"] += 1
    change.sum_old += before.value or 0.0
    change.sum_new += after.value or 0.0
    same = before.value is None and after.value is None
    if before.value is not None and after.value is not None:
        same = math.isclose(before.value, after.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if not same:
        change.changed += 1
        reason = after.score.reason if after.score else ""
        change.examples.append(Example(after.sample_id, before.value, after.value, reason, after.response[-200:]))


def _advantages(groups: Sequence[Group], estimate: Estimate) -> dict[int, float]:
    """The mean advantage of each sample's tokens."""
    samples = trainable(group for group in groups if _is_kept(group))
    if not samples:
        return {}
    rollout = AdvantageInput(
        rewards=np.array([sample.value for sample in samples], np.float32),
        group_ids=np.array([sample.group_id for sample in samples], np.int64),
        rollout_ids=np.array([sample.rollout_id for sample in samples], np.int64),
        num_tokens=np.array([sum(sample.loss_mask) for sample in samples], np.int64),
        rollout_log_probs=np.array(
            [x for s in samples for x, trained in zip(s.log_probs, s.loss_mask, strict=True) if trained], np.float32
        ),
    )
    sums = np.bincount(rollout.sample_of_token, estimate(rollout).advantages, len(samples))
    means = sums / np.maximum(rollout.num_tokens, 1)
    return dict(zip((sample.sample_id for sample in samples), means.tolist(), strict=True))


def _is_kept(group: Group) -> bool:
    return group.verdict is not None and group.verdict.keep


def _mean(total: float, num: int) -> float | None:
    return total / num if num else None
