"""Gathering samples into batches: what is asked at about the same time goes in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from slimrl import RewardError

Json = Any
"""A JSON value of a server."""

AskMany = Callable[[Sequence[bytes]], Awaitable[list[Json]]]
"""The answers to encoded samples, as many as samples; raises RewardError."""


class Batches:
    """Sends what waits once there are `size` samples, or `linger_s` after the first of them."""

    def __init__(self, ask_many: AskMany, size: int, linger_s: float) -> None:
        self._ask_many = ask_many
        self._size = size
        self._linger_s = linger_s
        self._waiting: list[tuple[bytes, asyncio.Future[Json]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, sample: bytes) -> Json:
        """The answer for one sample."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Json] = loop.create_future()
        self._waiting.append((sample, answer))
        if len(self._waiting) >= self._size:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._linger_s, self._send)
        return await answer

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = [(sample, answer) for sample, answer in self._waiting if not answer.done()]
        self._waiting = []
        if not batch:
            return
        task = asyncio.create_task(self._answer(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        for _, answer in batch:
            answer.add_done_callback(lambda _: _stop_if_unwanted(task, batch))

    async def _answer(self, batch: Sequence[tuple[bytes, asyncio.Future[Json]]]) -> None:
        try:
            found = await self._ask_many([sample for sample, _ in batch])
        except RewardError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(RewardError(str(error)))
        else:
            for (_, answer), value in zip(batch, found, strict=True):
                if not answer.done():
                    answer.set_result(value)
        finally:
            for _, answer in batch:
                answer.cancel()  # only those that got nothing: the task was stopped


def _stop_if_unwanted(task: asyncio.Task[None], batch: Sequence[tuple[bytes, asyncio.Future[Json]]]) -> None:
    if all(answer.cancelled() for _, answer in batch):
        task.cancel()  # every caller has left
