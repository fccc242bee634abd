"""Rewards that are `async def`: they wait together, and one that computes harms nobody but itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from slimrl import Group, Sample, Score

REWARDS = r"""
import asyncio, os, re
def hang(): re.match(r"(a+)+$", "a" * 40 + "b")

async def score(sample):
    match sample.response:
        case "compute": hang()
        case "later":
            await asyncio.sleep(0.05)
            hang()
        case "inner":
            async def inner(): hang()
            await asyncio.gather(inner(), asyncio.sleep(1))
        case "die": os._exit(3)
        case "exit": raise SystemExit(3)
        case "cancel": raise asyncio.CancelledError
        case "pid": return os.getpid()
    await asyncio.sleep(0.2)
    return 0.5

def plain(sample): return os.getpid()
"""


def scored(scorer: Any, samples: list[Sample]) -> tuple[list[Score], float]:
    async def go() -> float:
        async with scorer:
            started = time.perf_counter()
            await scorer.score(Group(0, samples))
            return time.perf_counter() - started

    seconds = asyncio.run(go())
    return [sample.score for sample in samples if sample.score is not None], seconds


def statuses(scorer: Any, make_sample: Callable[..., Sample], *responses: str) -> list[str]:
    found, _ = scored(scorer, [make_sample(response) for response in responses])
    return [score.status for score in found]


def test_many_wait_at_once(scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]) -> None:
    found, seconds = scored(scorer_of(REWARDS), [make_sample("1") for _ in range(200)])
    assert {score.value for score in found} == {0.5}
    assert seconds < 3


def test_the_one_that_computes_is_over_its_time_and_the_others_are_scored(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    samples = [make_sample(response) for response in ["1", "compute", "1", "later", "1"]]
    found, seconds = scored(scorer_of(REWARDS, timeout_s=1.0), samples)
    assert [score.status for score in found] == ["scored", "timeout", "scored", "timeout", "scored"]
    assert found[1].reason == "no result within 1 s; it held up the event loop"
    assert seconds < 6


def test_a_loop_that_is_held_up_by_something_a_reward_started_is_replaced_all_the_same(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    assert statuses(scorer_of(REWARDS, timeout_s=0.5), make_sample, "inner") == ["timeout"]


def test_the_callers_loop_turns_while_an_async_reward_computes(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> int:
        async with scorer_of(REWARDS, timeout_s=0.5) as scorer:
            scoring = asyncio.create_task(scorer.score(Group(0, [make_sample("compute")])))
            turns = 0
            while not scoring.done():
                await asyncio.sleep(0.005)
                turns += 1
            return turns

    assert asyncio.run(go()) > 20


def test_a_crash_is_the_outcome_of_the_sample_that_caused_it(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    found, _ = scored(scorer_of(REWARDS), [make_sample("1"), make_sample("die"), make_sample("1")])
    assert [score.status for score in found] == ["scored", "error", "scored"]
    assert found[1].reason == "the worker process ended with status 3 while scoring"


def test_what_an_async_reward_raises_is_an_outcome(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    assert statuses(scorer_of(REWARDS), make_sample, "exit", "cancel", "1") == ["error", "error", "scored"]


def test_plain_and_async_rewards_have_processes_of_their_own(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    (score,), _ = scored(scorer_of(REWARDS, {"plain": 1.0, "score": 1.0}), [make_sample("pid")])
    assert score.components["plain"] != score.components["score"]
