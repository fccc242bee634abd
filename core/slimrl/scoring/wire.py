"""What scorer and worker say to each other: frames over a private socket pair, samples in, JSON out."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import Any, Final

from slimrl.protocols import PluginOptions
from slimrl.types import Sample, Score

HEADER: Final = struct.Struct("!I")
MAX_REPLY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is told once: which reward to make, and how."""

    reference: str
    entry_point: str | None
    """The one plugin to import; None for a reference by path, which needs no other plugin."""
    file_hash: str
    """The reward's source as the scorer saw it; a worker refuses another."""
    options: PluginOptions
    reward_key: str | None
    memory_limit_bytes: int | None


def frame(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return HEADER.pack(len(payload)) + payload


def for_reward(sample: Sample) -> Sample:
    """A copy with what a reward may read: everything but the per-token lists that only training needs."""
    return replace(sample, log_probs=[], loss_mask=[], weight_versions=[], metadata=dict(sample.metadata))


def encode_score(score: Score) -> bytes:
    """A score as JSON; one that is too large to carry becomes an error."""
    payload = json.dumps(_fields(score)).encode()
    if len(payload) <= MAX_REPLY_BYTES:
        return payload
    reason = f"the reward returned {len(payload):,} bytes; at most {MAX_REPLY_BYTES:,} are kept with a sample"
    return json.dumps(_fields(Score(status="error", reason=reason, seconds=score.seconds))).encode()


def decode_score(payload: bytes) -> Score:
    """The score that `encode_score` wrote."""
    return Score(**json.loads(payload))


def _fields(score: Score) -> dict[str, Any]:  # Any: Score.reward is a JSON value
    return {
        "status": score.status,
        "value": score.value,
        "reward": score.reward,
        "components": dict(score.components),
        "reason": score.reason,
        "seconds": score.seconds,
    }
