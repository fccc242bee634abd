"""The worker that waits: `async def` rewards together on one event loop, in a process that can be killed.

A reward that computes where it should wait holds up that loop, never the caller's. When the loop is silent for longer
than a call may take, the process is replaced: the call that held it up is over its time, the others are asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from slimrl.errors import PluginError
from slimrl.scoring.process import WorkerProcess, how_it_ended
from slimrl.scoring.request import Request
from slimrl.scoring.wire import ALIVE, BEAT_S, WAIT, WorkerSpec, decode_reply, frame

logger = logging.getLogger(__name__)

GRACE_S: Final = 0.25
"""A loop that turns answers this soon after a deadline."""
MAX_INTERRUPTIONS: Final = 1


class Waiter:
    """One process for all `async def` rewards of a scorer."""

    def __init__(self, spec: WorkerSpec, *, start_timeout_s: float) -> None:
        self._spec = spec
        self._start_timeout_s = start_timeout_s
        self._process: WorkerProcess | None = None
        self._in_flight: dict[int, Request] = {}
        """Calls that were not answered, in the order they were made."""
        self._heard = 0.0
        """When the process last said anything, on the loop's clock."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._is_starting = False

    async def start(self, first: WorkerProcess | None) -> None:
        """Take a worker that is there, or start one; PluginError when that fails."""
        self._use(first or await WorkerProcess.start(self._spec, self._start_timeout_s))

    async def stop(self) -> None:
        """Kill the process; calls that were not answered fail."""
        if self._watch is not None:
            self._watch.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            await self._process.reap()
        for request in list(self._in_flight.values()):
            request.fail("scoring was stopped")

    def submit(self, request: Request) -> None:
        """Have a call made at once."""
        self._in_flight[request.id] = request
        if self._process is None:
            if not self._is_starting:
                self._track(self._restart())
            return
        self._send(self._process, request)

    def _send(self, process: WorkerProcess, request: Request) -> None:
        loop = asyncio.get_running_loop()
        request.since = loop.time()
        process.send(request.frames)
        if self._watch is None:
            self._heard = request.since
            self._watch = loop.call_later(BEAT_S, self._look)

    def _use(self, process: WorkerProcess) -> None:
        self._process = process
        process.on_frame = self._received
        process.on_lost = self._lost
        process.send(frame(WAIT))
        self._heard = asyncio.get_running_loop().time()
        for request in self._in_flight.values():
            self._send(process, request)

    def _received(self, payload: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        if payload == ALIVE:
            return
        call_id, scores = decode_reply(payload)
        request = self._in_flight.pop(call_id, None)
        if request is not None:
            request.answer(scores)

    def _look(self) -> None:
        """Every now and then while calls are in flight: is the process silent for too long?"""
        self._watch = None
        if not self._in_flight or self._process is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        guilty = self._in_flight.get(self._process.busy_with())
        allowed_s = min(r.timeout_s for r in self._in_flight.values()) if guilty is None else guilty.timeout_s
        if now - self._heard <= allowed_s + GRACE_S:
            self._watch = loop.call_later(BEAT_S, self._look)
            return
        logger.warning("reward: the event loop of the worker was held up for %.1f s; worker replaced", allowed_s)
        self._process.kill()
        late = [guilty] if guilty else [r for r in self._in_flight.values() if now - r.since > r.timeout_s]
        for request in late:
            del self._in_flight[request.id]
            request.expire(now - request.since, "; it held up the event loop" if request is guilty else "")
        self._track(_reaped(self._process))
        self._replace("was held up", is_explained=guilty is not None)

    def _lost(self) -> None:
        """The process ended by itself."""
        process = self._process
        if process is None:
            return
        guilty = self._in_flight.pop(process.busy_with(), None)
        process.kill()
        self._track(self._explain(process, guilty))
        self._replace("ended", is_explained=guilty is not None)

    async def _explain(self, process: WorkerProcess, guilty: Request | None) -> None:
        ended = how_it_ended(await process.reap())
        logger.warning("reward: the worker %s and was replaced", ended)
        if guilty is not None:
            guilty.fail(f"the worker process {ended} while scoring")

    def _replace(self, what: str, *, is_explained: bool) -> None:
        """Ask the calls in flight again; only once where it cannot be told which of them was the trouble."""
        self._process = None
        for request in list(self._in_flight.values()):
            request.interrupted += not is_explained
            if request.interrupted > MAX_INTERRUPTIONS or request.scores.done():
                del self._in_flight[request.id]
                request.fail(f"the worker process {what} more than once while this was scored")
        self._track(self._restart())

    async def _restart(self) -> None:
        self._is_starting = True
        try:
            process = await WorkerProcess.start(self._spec, self._start_timeout_s)
        except (PluginError, OSError) as error:
            for request in list(self._in_flight.values()):
                request.fail(f"no worker could be started: {error}")
            self._in_flight.clear()
            return
        finally:
            self._is_starting = False
        self._use(process)

    def _track(self, work: Coroutine[Any, Any, None]) -> None:  # Any: asyncio's own
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _reaped(process: WorkerProcess) -> None:
    await process.reap()
