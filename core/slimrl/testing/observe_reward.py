"""A reward seen from inside its process: what it returns, how long it takes, what it leaves changed."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, fields, replace
from typing import Any, Final

from slimrl.registry import is_async_callable
from slimrl.registry.discover import last_line
from slimrl.scoring.outcome import failed, to_score
from slimrl.testing.question import Question, Row
from slimrl.traits import RewardTraits, traits_of
from slimrl.types import Sample, Score

TIMED_CALLS: Final = 20
TIMED_S: Final = 0.3
"""A sample is scored again and again for this long at most."""
GROUP_SIZES: Final = (1, 2, 5)
TOGETHER: Final = 8
"""How many samples an async reward is asked for at once."""

Reward = Callable[[Any], Any]  # Any: a sample or the samples of a group, and whatever a user's function returns


def observe(reward: Reward, question: Question) -> Iterator[Row]:
    """Rows about the reward itself, about each sample, and about calls that overlap."""
    traits = traits_of(reward)
    is_group = question.is_group or traits.group
    is_async = is_async_callable(reward)
    yield {"traits": asdict(traits), "is_async": is_async, "is_group": is_group}
    for place, sample in enumerate(question.samples):
        yield {"sample": place, **_one(reward, sample, traits, is_group)}
    if is_group and question.samples:
        for size in GROUP_SIZES:
            yield {"group": size, **_group(reward, question.samples[0], size)}
    if is_async and not is_group and question.samples:
        yield {"together": asyncio.run(_together(reward, question.samples, traits))}


def _one(reward: Reward, sample: Sample, traits: RewardTraits, is_group: bool) -> Row:
    before = deepcopy(sample)
    first, returned = _call(reward, sample, traits, is_group)
    changed = [field.name for field in fields(Sample) if getattr(sample, field.name) != getattr(before, field.name)]
    seconds = [first.seconds]
    second = first
    ends = time.perf_counter() + TIMED_S
    while len(seconds) < TIMED_CALLS and (len(seconds) < 2 or time.perf_counter() < ends):
        second, _ = _call(reward, deepcopy(before), traits, is_group)
        seconds.append(second.seconds)
    return {
        "first": summary(first),
        "second": summary(second),
        "seconds": seconds,
        "changed": changed,
        "unpicklable": _unpicklable(returned),
    }


def summary(score: Score) -> str:
    """Everything a score says but the time it took, to be compared."""
    return json.dumps(asdict(replace(score, seconds=0.0)), sort_keys=True)


def _call(reward: Reward, sample: Sample, traits: RewardTraits, is_group: bool) -> tuple[Score, object]:
    started = time.perf_counter()
    returned: Any = None
    try:
        returned = reward([sample] if is_group else sample)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_await(returned))
        if is_group:
            (returned,) = returned
        score = _score(returned, traits)
    except (Exception, SystemExit) as error:  # a plugin's edge
        score = failed(f"the reward raised {last_line(error)}")
    return replace(score, seconds=time.perf_counter() - started), returned


def _group(reward: Reward, sample: Sample, size: int) -> Row:
    samples = [replace(deepcopy(sample), sample_id=place) for place in range(size)]
    try:
        returned = reward(samples)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_await(returned))
        return {"outcomes": len(returned)}
    except Exception as error:  # a plugin's edge
        return {"raised": last_line(error)}


async def _together(reward: Reward, samples: list[Sample], traits: RewardTraits) -> Row:
    """The first sample alone, then several at once while a clock ticks: do they differ, is the loop kept waiting?"""
    several = [deepcopy(samples[place % len(samples)]) for place in range(TOGETHER)]
    alone = [summary(await _outcome(reward, deepcopy(sample), traits)) for sample in several]
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)

    clock = asyncio.create_task(tick())
    at_once = await asyncio.gather(*(_outcome(reward, sample, traits) for sample in several))
    await asyncio.sleep(0.01)  # the clock sees what it missed
    clock.cancel()
    differ = sum(one != summary(other) for one, other in zip(alone, at_once, strict=True))
    return {"differ": differ, "of": len(several), "blocked_s": longest}


async def _outcome(reward: Reward, sample: Sample, traits: RewardTraits) -> Score:
    try:
        return _score(await reward(sample), traits)
    except Exception as error:  # a plugin's edge
        return failed(f"the reward raised {last_line(error)}")


def _score(returned: object, traits: RewardTraits) -> Score:
    """The outcome; of a mapping without a key to pick, whatever its first entry is: only sameness counts here."""
    if not isinstance(returned, Mapping) or not returned:
        return to_score(returned, None)
    return to_score(returned, traits.key if traits.key in returned else str(next(iter(returned))))


async def _await(awaitable: Any) -> Any:  # Any: whatever a reward returns
    return await awaitable


def _unpicklable(returned: object) -> str:
    try:
        pickle.dumps(returned)
    except Exception as error:  # whatever a __reduce__ raises
        return f"{type(error).__name__}: {error}"
    return ""
