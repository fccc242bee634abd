"""Scoring a group: rewards that compute run in worker processes, rewards that wait on the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from slimrl.errors import PluginError
from slimrl.protocols import PluginOptions, RewardValue
from slimrl.registry import Resolved, RewardTable
from slimrl.registry.discover import last_line
from slimrl.scoring.outcome import failed, to_score
from slimrl.scoring.settings import DEFAULT_TIMEOUT_S, ScoringSettings
from slimrl.scoring.wire import WorkerSpec, for_reward
from slimrl.scoring.workers import Worker
from slimrl.types import Group, Sample, Score, Status

logger = logging.getLogger(__name__)


class Scorer:
    """Gives every sample of a group its score, whatever the rewards do; an async context manager."""

    def __init__(self, rewards: RewardTable, options: PluginOptions, settings: ScoringSettings | None = None) -> None:
        settings = settings or ScoringSettings()
        self._table = rewards
        self._of: dict[str, _OneReward] = {}
        for component in rewards.components():
            self._of[component.resolved.reference] = _OneReward(
                component.resolved,
                options,
                reward_key=rewards.reward_key,
                num_workers=settings.num_workers,
                timeout_s=settings.timeout_s or DEFAULT_TIMEOUT_S,
                start_timeout_s=settings.start_timeout_s,
                memory_limit_bytes=settings.memory_limit_bytes,
            )
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start and warm the workers; PluginError when a reward cannot be made there."""
        async with AsyncExitStack() as resources:
            for reward in self._of.values():
                await resources.enter_async_context(reward)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything; a reward that still computes is killed."""
        await self._resources.aclose()

    async def score(self, group: Group) -> None:
        """Set the score of every sample that has none."""
        pending = [sample for sample in group if sample.score is None]
        scores = await asyncio.gather(*(self._score(sample) for sample in pending))
        for sample, score in zip(pending, scores, strict=True):
            sample.score = score

    async def _score(self, sample: Sample) -> Score:
        try:
            components = self._table.choose(sample.metadata)
        except PluginError as error:
            return failed(str(error))
        rewards = [self._of[component.resolved.reference] for component in components]
        return (await asyncio.gather(*(reward.one(sample) for reward in rewards)))[0]


class _OneReward:
    """Gives every sample of a group its score, whatever the reward does; an async context manager.

    A plain reward runs in `num_workers` processes: it may compute, hang, crash or take memory without harm to the
    run. An `async def` reward runs on the event loop and must only wait there. `timeout_s` is the deadline of one
    sample's scoring; imports and the reward's factory have `start_timeout_s`, once, before the first sample.
    """

    def __init__(
        self,
        reward: Resolved,
        options: PluginOptions,
        *,
        reward_key: str | None = None,
        num_workers: int | None = None,
        timeout_s: float = 3.0,
        start_timeout_s: float = 60.0,
        memory_limit_bytes: int | None = None,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; at least one worker is needed")
        self._reward = reward
        self._options = options
        self._reward_key = reward_key
        self._num_workers = num_workers or max(1, min(4, (os.cpu_count() or 2) // 2))
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._memory_limit_bytes = memory_limit_bytes
        self._workers: list[Worker] = []
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._async_reward: Callable[[Sample], Awaitable[RewardValue]] | None = None
        self._running: set[asyncio.Task[Any]] = set()  # Any: one task gives a score, another nothing

    async def __aenter__(self) -> Self:
        """Start and warm the workers; PluginError when the reward cannot be made there."""
        if self._reward.is_async:
            self._async_reward = self._reward.make(self._options)
            return self
        workers = [self._new_worker() for _ in range(self._num_workers)]
        try:
            if await workers[0].start():  # only once it is made is a factory's reward known to be async
                self._async_reward = self._reward.make(self._options)
            else:
                await asyncio.gather(*(worker.start() for worker in workers))
        except BaseException:
            await _stop(workers)
            raise
        if self._async_reward is not None:
            await _stop(workers)
            return self
        self._workers = workers
        for worker in workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything; a reward that still computes is killed."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await _stop(self._workers)
        self._workers = []

    async def score(self, group: Group) -> None:
        """Set the score of every sample that has none.

        A sample that failed or was aborted is not shown to the reward: it abstains, with the reason.
        """
        pending = [sample for sample in group if sample.score is None]
        scores = await asyncio.gather(*(self.one(sample) for sample in pending))
        for sample, score in zip(pending, scores, strict=True):
            sample.score = score

    async def one(self, sample: Sample) -> Score:
        if sample.status in (Status.FAILED, Status.ABORTED):
            because = f": {sample.reason}" if sample.reason else ""
            return Score(status="abstained", reason=f"not scored, the sample {sample.status}{because}")
        if self._async_reward is not None:
            return await self._wait_for(self._async_reward, for_reward(sample))
        if not self._workers:
            raise PluginError("the scorer is not started; use it as `async with Scorer(...)`")
        worker = await self._idle.get()
        # A task of its own: a caller that is cancelled leaves, and the worker still finishes and is free again.
        task = self._track(self._use(worker, for_reward(sample)))
        return cast(Score, await asyncio.shield(task))

    async def _use(self, worker: Worker, sample: Sample) -> Score:
        try:
            return await worker.score(sample)
        finally:
            self._idle.put_nowait(worker)

    async def _wait_for(self, reward: Callable[[Sample], Awaitable[RewardValue]], sample: Sample) -> Score:
        started = time.perf_counter()
        task = self._track(reward(sample))
        try:
            await asyncio.wait([task], timeout=self._timeout_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        seconds = time.perf_counter() - started
        if not task.done():
            task.cancel()  # and not awaited: a reward may refuse to be cancelled
            return Score(status="timeout", reason=f"no result within {self._timeout_s:g} s", seconds=seconds)
        if task.cancelled():
            return replace(failed("the reward was cancelled"), seconds=seconds)
        error = task.exception()
        score = to_score(task.result(), self._reward_key) if error is None else failed(_raised(error))
        return replace(score, seconds=seconds)

    def _track(self, work: Awaitable[Any]) -> asyncio.Task[Any]:  # Any: see _running
        async def run() -> Any:
            return await work

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: its caller has it, or has left

    def _new_worker(self) -> Worker:
        spec = WorkerSpec(
            reference=self._reward.reference,
            entry_point=self._reward.entry_point,
            file_hash=self._reward.file_hash,
            options=self._options,
            reward_key=self._reward_key,
            memory_limit_bytes=self._memory_limit_bytes,
        )
        return Worker(spec, timeout_s=self._timeout_s, start_timeout_s=self._start_timeout_s)


async def _stop(workers: list[Worker]) -> None:
    await asyncio.gather(*(worker.stop() for worker in workers))


def _raised(error: BaseException) -> str:
    return f"the reward raised {last_line(error)}"
