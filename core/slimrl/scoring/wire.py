"""What scorer and worker say to each other: frames over a private socket pair, samples in, JSON out.

A worker is sent its import path and its spec, answers with what the rewards say of themselves, is told how to serve
(`COMPUTE` or `WAIT`), and from then on gets calls and answers them.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from slimrl.protocols import PluginOptions
from slimrl.types import Sample, Score

HEADER: Final = struct.Struct("!I")
MARK: Final = struct.Struct("=Q")
"""In memory that both sides see: the id of the call that holds the worker's event loop right now, else 0."""
MAX_REPLY_BYTES: Final = 1 << 20
COMPUTE: Final = b"compute"
"""Serve plain rewards, one call after the other, in the order they were sent."""
WAIT: Final = b"wait"
"""Serve `async def` rewards, all calls at once."""
ALIVE: Final = b"[0, []]"
"""A worker's event loop turns: sent every `BEAT_S` while it has something to do."""
BEAT_S: Final = 0.1


@dataclass(frozen=True)
class RewardSpec:
    """One reward that a worker makes."""

    reference: str
    entry_point: str | None
    """The one plugin to import; None for a reference by path, which needs no other plugin."""
    file_hash: str
    """The reward's source as the scorer saw it; a worker refuses another."""
    is_group: bool


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is told once: which rewards to make, by the number that calls name them with."""

    rewards: Mapping[int, RewardSpec]
    options: PluginOptions
    memory_limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a reward."""

    id: int
    reward: int
    samples: Sequence[Sample]
    is_group: bool
    """Whether the reward takes the samples at once; else there is one."""
    keys: tuple[str, ...]
    value_required: bool
    timeout_s: float


def frame(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return HEADER.pack(len(payload)) + payload


def for_reward(sample: Sample) -> Sample:
    """A copy with what a reward may read: everything but the per-token lists that only training needs."""
    metadata = dict(sample.metadata)
    return replace(sample, log_probs=[], loss_mask=[], weight_versions=[], teacher_log_probs=[], metadata=metadata)


def encode_call(call: Call) -> bytes:
    """A call as a frame; raises whatever pickle does of a sample that cannot be carried."""
    fields = (
        call.id,
        call.reward,
        [for_reward(sample) for sample in call.samples],
        call.is_group,
        call.keys,
        call.value_required,
        call.timeout_s,
    )
    return frame(pickle.dumps(fields, protocol=pickle.HIGHEST_PROTOCOL))


def decode_call(payload: bytes) -> Call:
    """The call that `encode_call` wrote."""
    # S301: the frames come from the process that started this one, over a socket nobody else can reach.
    return Call(*pickle.loads(payload))  # noqa: S301


def encode_reply(call_id: int, scores: Sequence[Score]) -> bytes:
    """A call's scores as JSON; one that is too large to carry becomes an error."""
    payload = json.dumps([call_id, [_fields(score) for score in scores]]).encode()
    if len(payload) <= MAX_REPLY_BYTES:
        return payload
    return json.dumps([call_id, [_carried(score, len(scores)) for score in scores]]).encode()


def decode_reply(payload: bytes) -> tuple[int, list[Score]]:
    """The id and the scores that `encode_reply` wrote."""
    call_id, scores = json.loads(payload)
    return call_id, [Score(*fields) for fields in scores]


def _fields(score: Score) -> list[Any]:  # Any: Score.reward is a JSON value
    return [score.status, score.value, score.reward, dict(score.components), score.reason, score.seconds]


def _carried(score: Score, count: int) -> list[Any]:
    size, allowed = len(json.dumps(_fields(score))), MAX_REPLY_BYTES // count
    if size <= allowed:
        return _fields(score)
    reason = f"the reward returned {size:,} bytes; at most {allowed:,} are kept with a sample"
    return _fields(Score(status="error", reason=reason, seconds=score.seconds))
