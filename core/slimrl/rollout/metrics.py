"""What a filled batch says of itself, as numbers."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from slimrl.data.buffer import is_finished
from slimrl.rollout.failures import failure_metrics
from slimrl.rollout.insufficient import is_fallback
from slimrl.rollout.loop import Filled
from slimrl.rollout.unscored import metric_name, unscored_metrics
from slimrl.types import Group, Sample, Status

REPETITION_CHARS = 10_000
"""Characters at the end of a response that are looked at for repetition; shorter responses are not."""


def rollout_metrics(filled: Filled, version: int) -> dict[str, float]:
    """Rewards, lengths, drops and failures of one batch; `version` is the newest weight version."""
    samples = [s for group in filled.kept for s in group]
    lengths = np.array([len(s.tokens) for s in samples])
    metrics = {
        "rollout/groups": len(filled.kept),
        "rollout/groups_finished": filled.finished,
        "rollout/response_len_mean": lengths.mean(),
        "rollout/response_len_median": np.median(lengths),
        "rollout/response_len_min": lengths.min(),
        "rollout/response_len_max": lengths.max(),
        "rollout/truncated_ratio": np.mean([s.status is Status.TRUNCATED for s in samples]),
        "rollout/repetition_ratio": np.mean([_repeats_itself(s.response) for s in samples]),
        "rollout/unscored_ratio": np.mean([s.value is None for s in samples]),
        "rollout/zero_std_groups": sum(_is_flat(group) for group in filled.kept),
        "rollout/continued_samples": sum(_is_continued(s) for s in samples),
        "rollout/fallback_groups": sum(is_fallback(group) for group in filled.kept),
        "rollout/generate_seconds_max": max(s.generate_seconds for s in samples),
        "rollout/num_tokens": lengths.sum(),
    }
    metrics |= _staleness(samples, version)
    metrics |= _rewards(filled)
    metrics |= _components(filled.kept)
    metrics |= unscored_metrics(filled.kept + filled.dropped, "rollout/")
    metrics |= failure_metrics(filled.kept + filled.dropped, "rollout/")
    dropped = Counter(g.verdict.reason or "unnamed" for g in filled.dropped if g.verdict)
    metrics |= {f"rollout/filter_dropped_{reason}": count for reason, count in dropped.items()}
    return {name: float(value) for name, value in metrics.items()}


def buffer_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What waits in the buffer for the next rollout: groups, how many of them are finished, and generated tokens."""
    return {
        "rollout/buffer_groups": float(len(groups)),
        "rollout/buffer_finished_groups": float(sum(map(is_finished, groups))),
        "rollout/buffer_tokens": float(sum(len(sample.tokens) for group in groups for sample in group)),
    }


def _staleness(samples: Sequence[Sample], version: int) -> dict[str, float]:
    """How many versions behind the weights are that trained tokens are of: mean, largest, and each number's share."""
    trained = [np.array(s.weight_versions)[np.array(s.loss_mask, bool)] for s in samples if s.tokens]
    behind = version - np.concatenate(trained) if trained else np.array([], int)
    if not len(behind):
        return {"rollout/staleness_mean": 0.0, "rollout/staleness_max": 0.0}
    shares = np.bincount(behind.clip(0)) / len(behind)
    return {
        "rollout/staleness_mean": behind.mean(),
        "rollout/staleness_max": behind.max(),
        **{f"rollout/staleness_{number}_share": share for number, share in enumerate(shares) if len(shares) > 1},
    }


def _rewards(filled: Filled) -> dict[str, float]:
    kept = [s.value for group in filled.kept for s in group if s.value is not None]
    everything = kept + [s.value for group in filled.dropped for s in group if s.value is not None]
    return {
        "rollout/reward_mean": float(np.mean(kept)),
        "rollout/reward_std": float(np.std(kept)),
        "rollout/reward_min": float(np.min(everything)),
        "rollout/reward_max": float(np.max(everything)),
        # before the filter: what the policy really earns
        "rollout/reward_mean_unfiltered": float(np.mean(everything)),
    }


def _components(groups: Sequence[Group]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for group in groups:
        for sample in group:
            for name, value in (sample.score.components if sample.score else {}).items():
                values.setdefault(name, []).append(value)
    return {f"rollout/reward_{metric_name(name)}_mean": float(np.mean(v)) for name, v in values.items()}


def _is_continued(sample: Sample) -> bool:
    """Whether tokens of a sample are of different weights."""
    return bool(sample.tokens) and sample.weight_versions[0] != sample.weight_versions[-1]


def _repeats_itself(response: str) -> bool:
    """Whether the end of a long response is so repetitive that it can be written in a tenth of its length."""
    if len(response) <= REPETITION_CHARS:
        return False
    end = response[-REPETITION_CHARS:].encode(errors="replace")
    return len(zlib.compress(end)) * 10 < len(end)


def _is_flat(group: Group) -> bool:
    values = {s.value for s in group if s.value is not None}
    return len(values) < 2
