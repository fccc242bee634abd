"""Groups kept over from one rollout to the next: finished ones that were too many, and prompts that were cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from slimrl.protocols import BufferFilter
from slimrl.types import Group, Sample, Score, Status, Verdict


class Buffer:
    """A list of groups that a buffer filter takes from."""

    def __init__(self, take_from: BufferFilter) -> None:
        self.groups: list[Group] = []
        self._take_from = take_from

    def add(self, group: Group) -> None:
        """Keep a group: whole if it is finished, else as a fresh prompt."""
        if not is_finished(group):
            for sample in group:
                _start_over(sample)
        self.groups.append(group)

    def take(self, count: int) -> list[Group]:
        """Up to `count` groups in the filter's order."""
        return self._take_from(self.groups, count) if count and self.groups else []

    def state(self) -> list[dict[str, Any]]:
        """The groups as JSON values."""
        return [asdict(group) for group in self.groups]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Replace the groups by those of a saved state."""
        self.groups = [_group(values) for values in state]


def is_finished(group: Group) -> bool:
    """Whether every sample has been generated and scored."""
    return all(sample.score is not None for sample in group)


def _start_over(sample: Sample) -> None:
    sample.tokens.clear()
    sample.log_probs.clear()
    sample.loss_mask.clear()
    sample.weight_versions.clear()
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
