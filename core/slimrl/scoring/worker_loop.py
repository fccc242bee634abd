"""Serving `async def` rewards in a worker: all calls at once on its event loop, each with its deadline."""

from __future__ import annotations

import asyncio
import mmap
import socket
import types
from collections.abc import Coroutine, Generator, Mapping
from typing import Any

from slimrl.protocols import Reward
from slimrl.scoring.calling import wait
from slimrl.scoring.wire import ALIVE, BEAT_S, HEADER, MARK, Call, decode_call, encode_reply, frame
from slimrl.types import Score


def serve_at_once(channel: socket.socket, mark_fd: int, rewards: Mapping[int, Reward]) -> None:
    """Answer calls, in whatever order they finish, until the socket closes."""
    channel.setblocking(False)
    asyncio.run(WorkerLoop(rewards, mmap.mmap(mark_fd, MARK.size)).serve(channel))


class WorkerLoop:
    """The calls in flight on one event loop."""

    def __init__(self, rewards: Mapping[int, Reward], mark: mmap.mmap) -> None:
        self._rewards = rewards
        self._mark = mark
        self._answering: set[asyncio.Task[None]] = set()
        self._left_running: set[asyncio.Task[list[Score]]] = set()

    async def serve(self, channel: socket.socket) -> None:
        """Read calls until the socket closes."""
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        beating = asyncio.create_task(self._beat(writer))
        try:
            while True:
                (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                call = decode_call(await reader.readexactly(length))
                task = asyncio.create_task(self._answer(call, writer))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        except asyncio.IncompleteReadError:
            beating.cancel()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        while True:
            if self._answering:
                writer.write(frame(ALIVE))
            await asyncio.sleep(BEAT_S)

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._marked(call))
        await asyncio.wait([task], timeout=call.timeout_s)
        if task.done() and not task.cancelled():
            scores = task.result()
        elif task.done():
            scores = [Score(status="error", reason="the reward was cancelled")] * len(call.samples)
        else:
            task.cancel()  # and not awaited: a reward may refuse to be cancelled
            self._left_running.add(task)
            task.add_done_callback(self._left_running.discard)
            late = Score(status="timeout", reason=f"no result within {call.timeout_s:g} s", seconds=call.timeout_s)
            scores = [late] * len(call.samples)
        writer.write(frame(encode_reply(call.id, scores)))

    async def _marked(self, call: Call) -> list[Score]:
        reward = self._rewards[call.reward]
        return await _mark_steps(wait(reward, call), self._mark, call.id)


@types.coroutine
def _mark_steps(
    work: Coroutine[Any, Any, list[Score]], mark: mmap.mmap, call_id: int
) -> Generator[Any, Any, list[Score]]:  # Any: what asyncio and a coroutine say to each other
    """Run a coroutine; while it computes, its call's id stands where the scorer sees it."""
    resume, value = work.send, None
    while True:
        MARK.pack_into(mark, 0, call_id)
        try:
            awaited = resume(value)
        except StopIteration as done:
            scores: list[Score] = done.value
            return scores
        finally:
            MARK.pack_into(mark, 0, 0)
        try:
            resume, value = work.send, (yield awaited)
        except BaseException as error:  # a cancellation: the coroutine's own to handle
            resume, value = work.throw, error
