"""Calling a reward: whatever it does, one outcome for each sample."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from slimrl.errors import RewardError
from slimrl.protocols import Reward
from slimrl.registry.discover import last_line
from slimrl.scoring.outcome import failed, to_score
from slimrl.scoring.wire import Call
from slimrl.types import Sample, Score


def compute(reward: Reward, call: Call) -> list[Score]:
    """Call a plain reward."""
    started = time.perf_counter()
    try:
        scores = outcomes(_function(reward)(_shown(call)), call)
    except (Exception, SystemExit) as error:  # a plugin's edge
        scores = raised(error, call)
    return timed(scores, started)


async def wait(reward: Reward, call: Call) -> list[Score]:
    """Call an `async def` reward."""
    started = time.perf_counter()
    try:
        scores = outcomes(await _function(reward)(_shown(call)), call)
    except (Exception, SystemExit) as error:  # a plugin's edge
        scores = raised(error, call)
    return timed(scores, started)


def outcomes(returned: Any, call: Call) -> list[Score]:  # Any: a reward's result is anything
    """What a call returned, as a score for each sample; RewardError when it is not one for each."""
    if not call.is_group:
        return [to_score(returned, *call.keys, value_required=call.value_required)]
    if isinstance(returned, Awaitable):
        return [to_score(returned)] * len(call.samples)  # says what is wrong with it
    if isinstance(returned, str | bytes | Mapping) or not (
        isinstance(returned, Sized) and isinstance(returned, Iterable)
    ):
        raise RewardError(
            f"the reward returned {type(returned).__name__} for a group of {len(call.samples)}; it returns a list "
            "of one outcome a sample"
        )
    if len(returned) != len(call.samples):
        raise RewardError(f"the reward returned {len(returned)} scores for a group of {len(call.samples)}")
    return [to_score(entry, *call.keys, value_required=call.value_required) for entry in returned]


def raised(error: BaseException, call: Call) -> list[Score]:
    """The outcomes of a call that raised."""
    said = str(error) if isinstance(error, RewardError) and str(error) else f"the reward raised {last_line(error)}"
    return [failed(said)] * len(call.samples)


def timed(scores: Sequence[Score], started: float) -> list[Score]:
    """The scores with the seconds since `started`."""
    seconds = time.perf_counter() - started
    return [replace(score, seconds=seconds) for score in scores]


def _function(reward: Reward) -> Callable[[Any], Any]:  # Any: a sample or a list of them, and what comes of it
    return reward


def _shown(call: Call) -> Sample | list[Sample]:
    return list(call.samples) if call.is_group else call.samples[0]
