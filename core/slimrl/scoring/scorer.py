"""Scoring a group: every reward in processes of its own, every sample with an outcome."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from slimrl.errors import PluginError
from slimrl.protocols import PluginOptions
from slimrl.registry import Component, RewardTable
from slimrl.scoring.cache import ScoreCache
from slimrl.scoring.inline import Inline, is_short
from slimrl.scoring.mix import combine
from slimrl.scoring.outcome import failed
from slimrl.scoring.process import Made, WorkerProcess
from slimrl.scoring.request import Request
from slimrl.scoring.served import Served
from slimrl.scoring.settings import DEFAULT_TIMEOUT_S, ScoringSettings
from slimrl.scoring.waiter import Waiter
from slimrl.scoring.wire import Call, RewardSpec, WorkerSpec, encode_call
from slimrl.scoring.workers import WorkerPool
from slimrl.types import Group, Sample, Score, Status


class Scorer:
    """Gives every sample of a group its score, whatever the rewards do; an async context manager.

    Plain rewards run in a pool of processes: they may compute, hang, crash or take memory without harm to the run.
    `async def` rewards run together in one process. Only rewards that say they are quick (traits) run on the event
    loop, on short texts.
    """

    def __init__(self, rewards: RewardTable, options: PluginOptions, settings: ScoringSettings | None = None) -> None:
        self._table = rewards
        self._options = options
        self._settings = settings or ScoringSettings()
        self._resolved = list({c.resolved.reference: c.resolved for c in rewards.components()}.values())
        self._served: dict[str, Served] = {}
        self._ids = itertools.count(1)
        self._cache = ScoreCache(self._settings.cache_size)
        self._pool: WorkerPool | None = None
        self._waiter: Waiter | None = None
        self._inline = Inline(self._cache, value_required=self._settings.value_required)

    @property
    def cache_hits(self) -> int:
        """How many samples were answered from what is remembered, so far."""
        return self._cache.hits

    async def __aenter__(self) -> Self:
        """Start and warm the workers; PluginError when a reward cannot be made there."""
        if not self._resolved:
            return self
        numbers = range(len(self._resolved))
        first = await WorkerProcess.start(self._spec(numbers), self._settings.start_timeout_s)
        try:
            # Only once it is made is a factory's reward known to be async, and what it promises.
            served = [self._serve(number, first.made[number]) for number in numbers]
            computing = [s.number for s in served if not s.is_async]
            waiting = [s.number for s in served if s.is_async]
            start_timeout_s = self._settings.start_timeout_s
            if computing:
                pool = WorkerPool(self._spec(computing), size=self._settings.workers, start_timeout_s=start_timeout_s)
                self._pool = pool
                await pool.start(first)
            if waiting:
                self._waiter = Waiter(self._spec(waiting), start_timeout_s=start_timeout_s)
                await self._waiter.start(None if computing else first)
        except BaseException:
            await self._stop()
            first.kill()
            await first.reap()
            raise
        self._served = {s.resolved.reference: s for s in served}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything; a reward that still computes is killed."""
        await self._stop()

    async def _stop(self) -> None:
        if self._pool is not None:
            await self._pool.stop()
        if self._waiter is not None:
            await self._waiter.stop()
        self._pool = self._waiter = None
        self._served = {}

    def _spec(self, numbers: Sequence[int]) -> WorkerSpec:
        specs = {}
        for number in numbers:
            found = self._resolved[number]
            specs[number] = RewardSpec(found.reference, found.entry_point, found.file_hash, found.is_group)
        return WorkerSpec(specs, self._options, self._settings.memory_limit_bytes)

    def _serve(self, number: int, made: Made) -> Served:
        resolved, traits = self._resolved[number], made.traits
        is_inline = traits.inline and not (made.is_async or traits.group or resolved.is_group)
        return Served(
            number=number,
            resolved=resolved,
            is_async=made.is_async,
            is_group=resolved.is_group or traits.group,
            is_pure=traits.pure,
            timeout_s=self._settings.timeout_s or traits.timeout_s or DEFAULT_TIMEOUT_S,
            key=traits.key,
            inline=resolved.make(self._options) if is_inline else None,
        )

    async def score(self, group: Group) -> None:
        """Set the score of every sample that has none.

        A sample that failed or was aborted is not shown to a reward: it abstains, with the reason.
        """
        chosen: dict[int, tuple[Component, ...]] = {}
        asked: dict[str, tuple[Component, list[int]]] = {}
        for i, sample in enumerate(group.samples):
            if sample.score is not None:
                continue
            if sample.status in (Status.FAILED, Status.ABORTED):
                because = f": {sample.reason}" if sample.reason else ""
                sample.score = Score("abstained", reason=f"not scored, the sample {sample.status}{because}")
                continue
            try:
                chosen[i] = self._table.choose(sample.metadata, group.source)
            except PluginError as error:
                sample.score = failed(str(error))
                continue
            for component in chosen[i]:
                asked.setdefault(component.resolved.reference, (component, []))[1].append(i)
        answers: dict[tuple[str, int], Score] = {}
        key = self._table.key_of(group.source)

        async def ask(component: Component, indices: list[int]) -> None:
            scores = await self._ask(component, [group.samples[i] for i in indices], key)
            answers.update(zip(((component.resolved.reference, i) for i in indices), scores, strict=True))

        await asyncio.gather(*(ask(component, indices) for component, indices in asked.values()))
        for i, components in chosen.items():
            group.samples[i].score = combine([(c, answers[c.resolved.reference, i]) for c in components])

    async def _ask(self, component: Component, samples: list[Sample], key: str | None) -> list[Score]:
        """One reward's scores of samples of one group, asked again after an error or a timeout where that is set."""
        served = self._served.get(component.resolved.reference)
        if served is None:
            raise PluginError("the scorer is not started; use it as `async with Scorer(...)`")
        keys = served.keys(key, is_alone=len(self._served) == 1)
        scores = await self._answers(served, samples, keys)
        for _ in range(self._settings.retries):
            again = [i for i, score in enumerate(scores) if score.status in ("error", "timeout")]
            if not again or (served.is_group and len(again) < len(samples)):
                break
            for i, score in zip(again, await self._answers(served, [samples[i] for i in again], keys), strict=True):
                scores[i] = score
        return scores

    async def _answers(self, served: Served, samples: list[Sample], keys: tuple[str, ...]) -> list[Score]:
        if served.is_group:
            return await self._submit(served, samples, keys)
        scores: dict[int, Score] = {}
        waiting: dict[int, asyncio.Future[list[Score]]] = {}
        here: dict[int, tuple[Sample, bytes | None]] = {}
        for i, sample in enumerate(samples):
            cache_key = self._cache.key(served.number, keys, sample) if served.is_pure else None
            remembered = self._cache.get(cache_key) if cache_key else None
            if remembered is not None:
                scores[i] = replace(remembered, seconds=0.0)
            elif served.inline is not None and is_short(sample):
                here[i] = (sample, cache_key)
            else:
                waiting[i] = self._pending(served, sample, keys, cache_key)
        if here:

            def elsewhere(sample: Sample) -> asyncio.Future[list[Score]]:
                return self._submit(served, [sample], keys)

            found = await self._inline.score(served, keys, list(here.values()), elsewhere)
            scores.update(zip(here, found, strict=True))
        if waiting:
            await self._wait(served, waiting.values())
            scores |= {i: pending.result()[0] for i, pending in waiting.items()}
        return [scores[i] for i in range(len(samples))]

    async def _wait(self, served: Served, pending: Iterable[asyncio.Future[list[Score]]]) -> None:
        try:
            await asyncio.wait(set(pending))
        except asyncio.CancelledError:
            if not served.is_pure:  # nobody else waits for them: what has not begun need not begin
                for future in pending:
                    future.cancel()
            raise

    def _pending(
        self, served: Served, sample: Sample, keys: tuple[str, ...], cache_key: bytes | None
    ) -> asyncio.Future[list[Score]]:
        """The score of a sample that a worker computes; samples that are the same are computed once."""
        if cache_key is None:
            return self._submit(served, [sample], keys)
        pending = self._cache.pending.get(cache_key)
        if pending is not None:
            self._cache.hits += 1
            return pending
        pending = self._submit(served, [sample], keys)
        if not pending.done():
            self._cache.pending[cache_key] = pending
            pending.add_done_callback(partial(self._computed, cache_key))
        return pending

    def _computed(self, cache_key: bytes, pending: asyncio.Future[list[Score]]) -> None:
        del self._cache.pending[cache_key]
        if not pending.cancelled():
            self._cache.put(cache_key, pending.result()[0])

    def _submit(self, served: Served, samples: Sequence[Sample], keys: tuple[str, ...]) -> asyncio.Future[list[Score]]:
        call = Call(
            next(self._ids),
            served.number,
            samples,
            served.is_group,
            keys,
            self._settings.value_required,
            served.timeout_s,
        )
        request = Request(call.id, b"", len(samples), served.timeout_s)
        try:
            request.frames = encode_call(call)
        except Exception as error:  # metadata may hold anything; what cannot be carried cannot be scored
            request.fail(f"the sample cannot be sent to a worker: {type(error).__name__}: {error}")
            return request.scores
        worker = self._waiter if served.is_async else self._pool
        assert worker is not None, "started with what it serves"
        worker.submit(request)
        return request.scores
