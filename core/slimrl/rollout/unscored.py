"""Samples without a score: how many, whose fault, and when there are too many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slimrl.types import Group, Sample, Score, ScoreStatus, Status

FAILURES: tuple[ScoreStatus, ...] = ("error", "timeout")
"""What --on-unscored and --max-unscored-fraction are about: a reward may abstain as it likes."""
UNSCORED: tuple[ScoreStatus, ...] = (*FAILURES, "abstained")
MAX_IDS = 5


@dataclass(frozen=True)
class Unscored:
    """The samples that one reward left without a score for one reason."""

    reward: str
    status: ScoreStatus
    reason: str
    sample_ids: tuple[int, ...]

    def told(self) -> dict[str, Any]:  # Any: JSON values
        """As an entry of an event: the first few samples stand for all."""
        return {
            "reward": self.reward,
            "status": self.status,
            "reason": self.reason,
            "count": len(self.sample_ids),
            "samples": list(self.sample_ids[:MAX_IDS]),
        }

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.sample_ids[:MAX_IDS])) + (", ..." if len(self.sample_ids) > MAX_IDS else "")
        noun = "samples" if len(self.sample_ids) > 1 else "sample"
        whose = f"reward {self.reward}: " if self.reward else ""
        return f"{whose}{self.status} {len(self.sample_ids)}x: {self.reason} ({noun} {ids})"


def find_unscored(
    groups: Iterable[Group], statuses: Sequence[ScoreStatus] = (*FAILURES, "abstained")
) -> list[Unscored]:
    """The samples without a score, by reward, status and reason; the most frequent first."""
    found: dict[tuple[str, ScoreStatus, str], list[int]] = {}
    for sample, score in _outcomes(groups):
        if score.status in statuses:
            found.setdefault((score.by, score.status, score.reason), []).append(sample.sample_id)
    entries = [Unscored(*key, tuple(sorted(ids))) for key, ids in found.items()]
    return sorted(entries, key=lambda entry: (-len(entry.sample_ids), entry.sample_ids))


def unscored_metrics(groups: Sequence[Group], prefix: str) -> dict[str, float]:
    """Counts of errors, timeouts and abstentions, in all and by reward, and the seconds that scoring took."""
    counts: Counter[str] = Counter(dict.fromkeys((*FAILURES, "abstained"), 0))
    seconds = []
    for _, score in _outcomes(groups):
        seconds.append(score.seconds)
        if score.status != "scored":
            counts[score.status] += 1
            if score.by:
                counts[f"{score.status}_{metric_name(score.by)}"] += 1
    metrics = {f"{prefix}unscored_{name}": float(count) for name, count in counts.items()}
    if seconds:
        metrics |= {
            f"{prefix}score_seconds_mean": sum(seconds) / len(seconds),
            f"{prefix}score_seconds_max": max(seconds),
        }
    return metrics


def metric_name(reward: str) -> str:
    """A reward's name as a part of a metric's."""
    return re.sub(r"[^\w.+-]+", "_", reward)


def first_failure(groups: Iterable[Group]) -> str:
    """Why a run with --on-unscored stop ends here; empty where nothing failed."""
    failed = [(sample, score) for sample, score in _outcomes(groups) if score.status in FAILURES]
    if not failed:
        return ""
    sample, score = min(failed, key=lambda pair: pair[0].sample_id)
    whose = f"reward {score.by}" if score.by else "scoring"
    return (
        f"{whose}: {score.status} on sample {sample.sample_id}: {score.reason}; --on-unscored stop ends the run here "
        "(drop leaves such samples out of their group)"
    )


def too_many(groups: Sequence[Group], max_fraction: float) -> str:
    """Why a run ends that leaves more than this share of samples unscored; empty where it does not."""
    tried = [score.status for _, score in _outcomes(groups) if score.status != "abstained"]
    failed = sum(status in FAILURES for status in tried)
    if not tried or failed / len(tried) <= max_fraction:
        return ""
    reasons = "; ".join(map(str, find_unscored(groups, FAILURES)[:3]))
    return (
        f"{failed} of {len(tried)} samples could not be scored, more than --max-unscored-fraction {max_fraction:g}: "
        f"{reasons}"
    )


def _outcomes(groups: Iterable[Group]) -> Iterator[tuple[Sample, Score]]:
    """Each sample's score; one that could not be generated was not shown to a reward."""
    return (
        (sample, sample.score)
        for group in groups
        for sample in group
        if sample.score is not None and sample.status is not Status.FAILED
    )
