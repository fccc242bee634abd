"""Several engines as one: each request goes where it is served best, and off an engine that died to another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Self

from slimrl.engines.client import HttpEngineClient
from slimrl.engines.health import HealthSettings
from slimrl.engines.member import Key, Member
from slimrl.engines.prefixes import Prefixes, marks_of
from slimrl.engines.rotation import EngineCare, Rotation
from slimrl.errors import EngineError, EngineFailingError, EngineUnreachableError
from slimrl.types import Completion, SamplingParams

RECONNECT_S: Final = 1.0
"""How long a broken connection is tried again before the engine's health is looked at."""
MIN_TRIES: Final = 3
"""A request is tried once on each engine, and on few engines so often: one that comes back is another one."""
SLACK: Final = 16
"""Requests that an engine may have more than the least busy one and still get those whose beginning it holds."""
ENDED: Final = Completion([], [], [], "", "abort", finish_message="ended before it was sent")


class EnginePool:
    """Implements EngineClient over engines that serve the same weights, for one event loop.

    A request goes to the engine with the fewest requests, or to the one that holds its beginning. One whose engine
    dies is sent to another, once to each; a refusal (4xx) is final. A lost engine comes back with the trainer's
    weights, through `care`; without it, it stays lost. `concurrency` bounds the requests in flight on each engine.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        concurrency: int = 512,
        vocab_size: int | None = None,
        care: EngineCare | None = None,
        on_event: Callable[..., None] = lambda name, **fields: None,
        health: HealthSettings | None = None,
        patience_s: float = 300.0,
    ) -> None:
        def open_client(url: str) -> HttpEngineClient:
            # with nobody to bring it back, an engine gets the time to come back by itself
            reconnect_s = None if care is None else RECONNECT_S
            return HttpEngineClient(url, concurrency=concurrency, vocab_size=vocab_size, reconnect_s=reconnect_s)

        self._concurrency = concurrency
        self._rotation = Rotation(
            urls, open_client, care, health or HealthSettings(), patience_s, on_event, self._wake_all
        )
        self._prefixes = Prefixes()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns = count()
        self._num_aborts = 0
        self._num_moved = 0

    async def __aenter__(self) -> Self:
        self._rotation.watch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rotation.close()

    @property
    def num_engines(self) -> int:
        """In rotation or not."""
        return len(self._rotation.members)

    @property
    def url(self) -> str:
        """The address of an engine that serves, each in its turn, for whoever speaks HTTP to it."""
        members = self._rotation.alive or self._rotation.members
        return members[next(self._turns) % len(members)].url

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when all engines answer GET /health; EngineError with those that do not after `timeout_s`."""
        waits = (member.client.wait_ready(timeout_s) for member in self._rotation.members)
        failed = [error for error in await asyncio.gather(*waits, return_exceptions=True) if error is not None]
        if failed:
            raise EngineError("; ".join(map(str, failed)))

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        """One response with the log-prob and weight version of each token, from whichever engine could give it.

        Raises EngineError when an engine refuses it or all that were asked failed, EnginesLostError when no engine is
        left.
        """
        marks = marks_of(input_ids) if self.num_engines > 1 else []
        tried: list[Key] = []
        num_aborts = self._num_aborts
        while True:
            member = await self._place(marks, tried, num_aborts)
            if member is None:
                return ENDED
            key = member.key
            self._num_moved += bool(tried)
            tried.append(key)
            failure: EngineError | None = None
            try:
                completion = await self._generate(member, input_ids, sampling, request_id)
                if completion.finish_reason != "abort" or self._num_aborts != num_aborts:
                    return completion
            except (EngineUnreachableError, EngineFailingError) as error:
                failure = error
            serves_on = await self._rotation.examine(member, key)
            if failure is None:
                if serves_on:
                    return completion  # somebody else told it to end its requests
                failure = EngineUnreachableError(f"{member} ended a request when it stopped")
            if len(tried) >= max(MIN_TRIES, self.num_engines):
                raise failure
            if isinstance(failure, EngineFailingError) and serves_on and not self._is_untried(tried):
                raise failure

    async def abort_all(self) -> None:
        """End every request, those that wait for an engine too."""
        self._num_aborts += 1
        self._wake_all()

        async def abort(member: Member, key: Key) -> None:
            try:
                await member.client.abort_all()
            except EngineError:
                await self._rotation.examine(member, key)

        await asyncio.gather(*(abort(member, member.key) for member in self._rotation.alive))

    def publishing(self) -> None:
        """The engines are about to stand still for new weights, until `published`."""
        self._rotation.publishing()

    def published(self, version: int, failed: Mapping[int, str]) -> None:
        """The engines have this version of the weights but for those that `failed`, by number with the reason."""
        self._rotation.published(version, failed)

    async def weight_version(self) -> str:
        """The version of the weights that the engines were last given."""
        return str(self._rotation.version)

    def metrics(self) -> dict[str, float]:
        """Engines in rotation now, and requests that moved since the last call."""
        moved, self._num_moved = self._num_moved, 0
        return {
            "rollout/engines_alive": float(len(self._rotation.alive)),
            "rollout/moved_requests": float(moved),
        }

    async def model_cpu_s(self) -> float | None:
        """CPU seconds of the models since the last call; None where no engine tells them."""
        told = await asyncio.gather(*(member.model_cpu_s() for member in self._rotation.alive))
        known = [seconds for seconds in told if seconds is not None]
        return sum(known) if known else None

    async def num_requests(self) -> int:
        """Requests that run or wait on the engines in rotation."""
        return sum(await asyncio.gather(*(member.client.num_requests() for member in self._rotation.alive)))

    async def _generate(
        self, member: Member, input_ids: Sequence[int], sampling: SamplingParams, request_id: str | None
    ) -> Completion:
        """On one engine; EngineUnreachableError as soon as it is lost, whatever its connection does."""
        task = asyncio.create_task(member.client.generate(input_ids, sampling, request_id=request_id))
        member.tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise EngineUnreachableError(f"{member} was lost: {member.lost}") from None
        finally:
            member.tasks.discard(task)
            self._wake_one()

    async def _place(self, marks: Sequence[int], tried: Sequence[Key], num_aborts: int) -> Member | None:
        """An engine with room, as soon as there is one; None when requests are ended meanwhile."""
        has_waited = False
        while True:
            if self._rotation.end is not None:
                raise self._rotation.end
            if self._num_aborts != num_aborts:
                return None
            if (has_waited or not self._waiting) and (member := self._choose(marks, tried)):
                self._prefixes.add(marks, member.key)
                return member
            turn = asyncio.get_running_loop().create_future()
            (self._waiting.appendleft if has_waited else self._waiting.append)(turn)
            has_waited = True
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._wake_one()  # the turn was given, and is not taken
                raise

    def _choose(self, marks: Sequence[int], tried: Sequence[Key]) -> Member | None:
        free = [member for member in self._rotation.alive if member.in_flight < self._concurrency]
        free = [member for member in free if member.key not in tried] or free
        if not free:
            return None
        least = min(free, key=lambda member: member.in_flight)
        home = self._prefixes.find(marks)
        most = least.in_flight + max(SLACK, least.in_flight // 4)
        return next((member for member in free if member.key == home and member.in_flight <= most), least)

    def _is_untried(self, tried: Sequence[Key]) -> bool:
        return any(member.key not in tried for member in self._rotation.alive)

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_all(self) -> None:
        for _ in range(len(self._waiting)):
            self._wake_one()
