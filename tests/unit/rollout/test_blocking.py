"""A generator that keeps the event loop is told once by its name; everything else about it stays as it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slimrl.rollout import blocking
from slimrl.rollout.blocking import BlockingWatch
from slimrl.testing import FakeEngine
from slimrl.types import Sample, SamplingParams

SAMPLING = SamplingParams(4)


def pending() -> Sample:
    return Sample(0, 0, 0, "p", [1])


async def computes(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
    await asyncio.sleep(0)
    ends = time.thread_time() + 1.5 * blocking.COMPUTES_S
    while time.thread_time() < ends:
        pass
    await asyncio.sleep(0)
    return sample


async def sleeps(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
    time.sleep(1.1 * blocking.WAITS_S)  # noqa: ASYNC251  # that is what is looked for
    return sample


async def waits(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
    await asyncio.sleep(1.5 * blocking.COMPUTES_S)
    await asyncio.to_thread(time.sleep, 1.5 * blocking.COMPUTES_S)
    return sample


def told_of(generate: Any, times: int = 1) -> list[str]:
    told: list[str] = []
    watched = BlockingWatch(lambda name, seconds: told.append(name)).watched(generate, "mine.py:generate")

    async def go() -> None:
        for _ in range(times):
            sample = pending()
            assert await watched(sample, SAMPLING, FakeEngine()) is sample

    asyncio.run(go())
    return told


@pytest.mark.parametrize("generate", [computes, sleeps])
def test_a_generator_that_keeps_the_loop_is_told_once_by_its_name(
    generate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert told_of(generate, times=2 if generate is computes else 1) == ["mine.py:generate"]
    (warning,) = caplog.messages
    assert warning.startswith("generator mine.py:generate kept the event loop for ")


def test_one_that_waits_is_not() -> None:
    assert told_of(waits) == []


async def raises(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failing.set_exception(KeyError("x"))
    try:
        await failing
    except KeyError as error:
        raise ValueError("no x") from error
    raise AssertionError


async def cleans_up(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        sample.response = "cancelled"
        raise
    finally:
        await asyncio.sleep(0)
        sample.reason = "cleaned up"
    return sample


def watch(generate: Any) -> Callable[..., Awaitable[Any]]:
    return BlockingWatch(lambda name, seconds: None).watched(generate, "mine.py:generate")


def test_what_it_raises_and_a_cancellation_pass_through() -> None:
    async def cancel() -> Sample:
        sample = pending()
        task = asyncio.ensure_future(watch(cleans_up)(sample, SAMPLING, FakeEngine()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sample

    with pytest.raises(ValueError, match="no x"):
        asyncio.run(watch(raises)(pending(), SAMPLING, FakeEngine()))  # type: ignore[arg-type]  # a coroutine
    sample = asyncio.run(cancel())
    assert (sample.response, sample.reason) == ("cancelled", "cleaned up")


def test_a_future_is_awaited_as_a_coroutine_is() -> None:
    def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> asyncio.Future[Sample]:
        return asyncio.ensure_future(waits(sample, sampling, engine))

    assert told_of(generate) == []


def test_a_time_limit_inside_of_it_holds() -> None:
    async def limited(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        return sample

    assert told_of(limited) == []
