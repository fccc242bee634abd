"""The pool: how late a kill lands, what goes on meanwhile, and what a worker costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil

from slimrl import Group, Sample, Score

REWARDS = """
import os, re, time
from slimrl import reward_traits

def score(sample):
    match sample.response:
        case "hang": re.match(r"(a+)+$", "a" * 40 + "b")
        case "die": os._exit(3)
        case "pid": return os.getpid()
        case "twice":
            seen = sample.label + str(os.getpid())
            if not os.path.exists(sample.label):
                open(sample.label, "w").close()
                raise ValueError("only at first")
    return float(sample.response) if sample.response.isdigit() else 1.0

def eats(sample):
    taken = []
    while True:
        taken.append(b"x" * (1 << 20))

@reward_traits(timeout_s=0.2)
def brief(sample): time.sleep(1000)

@reward_traits(inline=True)
def inline(sample):
    if sample.response.startswith("slow"):
        sum(i for i in range(3_000_000))
    return os.getpid()
"""


async def scored(scorer: Any, *samples: Sample) -> list[Score]:
    await scorer.score(Group(0, list(samples)))
    return [sample.score for sample in samples if sample.score is not None]


def test_the_spare_worker_takes_over_at_once_and_the_kill_lands_at_the_deadline(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> tuple[float, float, Score]:
        async with scorer_of(REWARDS, timeout_s=0.5) as scorer:
            while len(scorer._pool._lanes) < 2:  # noqa: ASYNC110  # the spare is not warm yet
                await asyncio.sleep(0.02)
            started = time.perf_counter()
            (late,) = await scored(scorer, make_sample("hang"))
            killed_s = time.perf_counter() - started
            await scored(scorer, make_sample("1"))
            return killed_s, time.perf_counter() - started - killed_s, late

    killed_s, next_s, late = asyncio.run(go())
    assert late.status == "timeout"
    assert 0.5 <= killed_s < 1.0
    assert next_s < 0.2  # starting a worker takes longer


def test_calls_that_were_sent_after_one_that_never_ends_are_computed_elsewhere(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> list[Score]:
        async with scorer_of(REWARDS, timeout_s=0.5) as scorer:
            await scored(scorer, *(make_sample(str(i)) for i in range(200)))  # quick: several are sent ahead
            responses = ["1", "2", "hang", "3", "die", *(str(i) for i in range(20))]
            return await scored(scorer, *(make_sample(response) for response in responses))

    found = asyncio.run(go())
    assert [score.status for score in found[:5]] == ["scored", "scored", "timeout", "scored", "error"]
    assert [score.value for score in found[5:]] == list(range(20))


def test_the_loop_is_free_while_workers_die_and_start(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> float:
        async with scorer_of(REWARDS, timeout_s=0.2, num_workers=2) as scorer:
            samples = [make_sample(response) for response in ["hang", "die", "1", "2"] * 3]
            scoring = asyncio.create_task(scorer.score(Group(0, samples)))
            longest = 0.0
            while not scoring.done():
                started = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - started)
            return longest

    assert asyncio.run(go()) < 0.05


def test_a_reward_that_eats_memory_fails_before_it_has_more_than_its_share(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> tuple[list[Score], int]:
        async with scorer_of(REWARDS, {"eats": 1.0}, memory_limit_bytes=300 << 20, timeout_s=20.0) as scorer:
            scoring = asyncio.create_task(scored(scorer, make_sample("1")))
            most = 0
            while not scoring.done():
                for child in psutil.Process().children():
                    if "slimrl.scoring" in " ".join(child.cmdline()):  # other tests may have left children too
                        most = max(most, child.memory_info().rss)
                await asyncio.sleep(0.01)
            return await scoring, most

    (score,), most = asyncio.run(go())
    assert score.status == "error"
    assert "MemoryError" in score.reason
    assert most < 400 << 20


def test_a_rewards_own_deadline_counts_where_no_flag_says_one(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def reason(**settings: Any) -> str:
        async with scorer_of(REWARDS, {"brief": 1.0}, **settings) as scorer:
            return (await scored(scorer, make_sample("1")))[0].reason

    assert asyncio.run(reason()) == "no result within 0.2 s"
    assert asyncio.run(reason(timeout_s=0.4)) == "no result within 0.4 s"


def test_what_went_wrong_is_asked_once_more_where_that_is_wanted(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample], tmp_path: Any
) -> None:
    async def go(retries: int, label: str) -> list[Score]:
        async with scorer_of(REWARDS, retries=retries, timeout_s=0.3) as scorer:
            return await scored(scorer, make_sample("twice", label=label), make_sample("hang"), make_sample("2"))

    once = asyncio.run(go(0, str(tmp_path / "a")))
    again = asyncio.run(go(1, str(tmp_path / "b")))
    assert [score.status for score in once] == ["error", "timeout", "scored"]
    assert [score.status for score in again] == ["scored", "timeout", "scored"]


def test_a_quick_reward_runs_here_on_short_texts_and_in_a_worker_on_long_ones(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> list[Score]:
        async with scorer_of(REWARDS, {"inline": 1.0}) as scorer:
            return await scored(scorer, make_sample("short"), make_sample("long" * 10_000))

    here, there = asyncio.run(go())
    assert here.value == psutil.Process().pid
    assert there.value not in (None, psutil.Process().pid)


def test_a_reward_that_is_not_as_quick_as_it_says_goes_to_the_workers(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    async def go() -> list[Score]:
        async with scorer_of(REWARDS, {"inline": 1.0}) as scorer:
            return await scored(scorer, make_sample("slow"), make_sample("short"))

    first, second = asyncio.run(go())
    assert first.value == psutil.Process().pid
    assert second.value not in (None, psutil.Process().pid)


def test_an_idle_worker_is_small(scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]) -> None:
    async def go() -> int:
        async with scorer_of(REWARDS) as scorer:
            (score,) = await scored(scorer, make_sample("pid"))
            assert score.value is not None
            return int(psutil.Process(int(score.value)).memory_info().rss)

    assert asyncio.run(go()) < 60 << 20
