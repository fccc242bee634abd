"""Samples that could not be generated: what kind of failure, how often, and whose."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slimrl.errors import EngineError, SlimrlError
from slimrl.types import Group, Sample, Status

ENGINE, TIMEOUT, GENERATOR = KINDS = ("engine", "timeout", "generator")
"""Every rollout counts these; other kinds are the exceptions that a generator or a tool raised, by their class."""
MAX_OTHERS: Final = 8
"""Of other kinds, the most frequent ones have a metric of their own."""
MAX_IDS: Final = 5


def failure_kind(error: BaseException) -> str:
    """A failure's kind, as a metric's suffix; what the generator itself says went wrong is `generator`."""
    if isinstance(error, EngineError):
        return ENGINE
    if isinstance(error, TimeoutError):
        return TIMEOUT
    if isinstance(error, SlimrlError):
        return GENERATOR
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(error).__name__).lower()


@dataclass(frozen=True)
class Failure:
    """The samples that failed with one generator for one reason."""

    kind: str
    reason: str
    sample_ids: tuple[int, ...]

    def told(self) -> dict[str, Any]:  # Any: JSON values
        """As an entry of an event: the first few samples stand for all."""
        return {
            "kind": self.kind,
            "reason": self.reason,
            "count": len(self.sample_ids),
            "samples": list(self.sample_ids[:MAX_IDS]),
        }


def find_failures(groups: Iterable[Group]) -> list[Failure]:
    """The samples that failed, by kind and reason; the most frequent first."""
    found: dict[tuple[str, str], list[int]] = {}
    for sample in _failed(groups):
        found.setdefault((sample.failure, sample.reason), []).append(sample.sample_id)
    entries = [Failure(*key, tuple(sorted(ids))) for key, ids in found.items()]
    return sorted(entries, key=lambda entry: (-len(entry.sample_ids), entry.sample_ids))


def failure_metrics(groups: Sequence[Group], prefix: str) -> dict[str, float]:
    """How many samples failed, in all and by kind; rare kinds beside many others are `other`."""
    counts = Counter(sample.failure for sample in _failed(groups))
    metrics = {f"{prefix}failed_samples": float(counts.total())}
    metrics |= {f"{prefix}failed_{kind}": float(counts.pop(kind, 0)) for kind in KINDS}
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    metrics |= {f"{prefix}failed_{kind}": float(count) for kind, count in ordered[:MAX_OTHERS]}
    if rest := ordered[MAX_OTHERS:]:
        metrics[f"{prefix}failed_other"] = float(sum(count for _, count in rest))
    return metrics


def _failed(groups: Iterable[Group]) -> Iterator[Sample]:
    return (sample for group in groups for sample in group if sample.status is Status.FAILED)
