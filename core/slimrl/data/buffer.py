"""Groups kept over from one rollout to the next: finished ones that were too many, and those that were cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from slimrl.protocols import BufferFilter
from slimrl.types import Group, Sample, Score, Status, Verdict

DONE = (Status.COMPLETED, Status.TRUNCATED)


class Buffer:
    """A list of groups that a buffer filter takes from.

    With `keeps_partial` a group that was cut off keeps its finished samples, and the tokens of the others where the
    generator goes on from them (`continues`); else it starts over.
    """

    def __init__(self, take_from: BufferFilter, *, keeps_partial: bool = False, continues: bool = False) -> None:
        self.groups: list[Group] = []
        self._take_from = take_from
        self._keeps_partial = keeps_partial
        self._continues = continues

    def add(self, group: Group) -> None:
        """Keep a group: whole if it is finished, else what of it can be gone on with."""
        if not is_finished(group):
            group.samples = [sample for siblings in _rollouts(group) for sample in self._kept(siblings)]
            group.verdict = None
        self.groups.append(group)

    def take(self, count: int) -> list[Group]:
        """Up to `count` groups in the filter's order."""
        return self._take_from(self.groups, count) if count and self.groups else []

    def state(self) -> list[dict[str, Any]]:
        """The groups as JSON values."""
        return [group_state(group) for group in self.groups]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Replace the groups by those of a saved state."""
        self.groups = [_group(values) for values in state]

    def _kept(self, siblings: list[Sample]) -> list[Sample]:
        if self._keeps_partial and all(sample.status in DONE for sample in siblings):
            return siblings
        first = siblings[0]  # the rest of a fan-out is made anew
        goes_on = self._keeps_partial and self._continues and len(siblings) == 1 and first.status is Status.ABORTED
        if not goes_on:
            _forget(first)
        return [first]


def is_finished(group: Group) -> bool:
    """Whether every sample has been generated and scored."""
    return all(sample.score is not None for sample in group)


def start_over(group: Group) -> Group:
    """The group with nothing generated, one sample for each rollout."""
    group.samples = [siblings[0] for siblings in _rollouts(group)]
    for sample in group:
        _forget(sample)
    group.verdict = None
    return group


def group_state(group: Group) -> dict[str, Any]:
    """A group as JSON values."""
    return asdict(group)


def _rollouts(group: Group) -> list[list[Sample]]:
    """The samples by rollout: several are a fan-out's."""
    found: dict[int, list[Sample]] = {}
    for sample in group:
        found.setdefault(sample.rollout_id, []).append(sample)
    return list(found.values())


def _forget(sample: Sample) -> None:
    sample.tokens.clear()
    sample.log_probs.clear()
    sample.loss_mask.clear()
    sample.weight_versions.clear()
    sample.teacher_log_probs.clear()
    sample.response = ""
    sample.status = Status.PENDING
    sample.reason = ""
    sample.score = None


def _group(values: Mapping[str, Any]) -> Group:
    verdict = values["verdict"]
    samples = [
        Sample(**{**s, "status": Status(s["status"]), "score": Score(**s["score"]) if s["score"] else None})
        for s in values["samples"]
    ]
    return Group(**{**values, "samples": samples, "verdict": Verdict(**verdict) if verdict else None})
