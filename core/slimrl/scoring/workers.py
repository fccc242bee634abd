"""Workers that compute: plain rewards in a pool of processes, with a deadline for each call and a warm spare."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from slimrl.errors import PluginError
from slimrl.scoring.process import WorkerProcess, how_it_ended
from slimrl.scoring.request import Request
from slimrl.scoring.wire import COMPUTE, WorkerSpec, decode_reply, frame

logger = logging.getLogger(__name__)

MAX_AHEAD: Final = 8
"""Calls at most that one worker has been sent and has not answered."""
AHEAD_S: Final = 0.004
"""A worker is sent as many calls ahead as it is expected to answer in this time: it need not wait for the loop."""


class _Lane:
    """One worker and what it was sent: the first call is being computed, the others wait in its socket."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.sent: deque[Request] = deque()
        self.timer: asyncio.TimerHandle | None = None

    def drop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class WorkerPool:
    """`size` workers that compute and one that is warm: it takes over at once where a worker was killed."""

    def __init__(self, spec: WorkerSpec, *, size: int, start_timeout_s: float) -> None:
        self._spec = spec
        self._size = size
        self._start_timeout_s = start_timeout_s
        self._lanes: list[_Lane] = []
        """Live workers; those behind the first `size` are spare."""
        self._queue: deque[Request] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[int]] = set()
        self._call_s = AHEAD_S
        """A running mean of a call's seconds."""
        self._is_open = False

    async def start(self, first: WorkerProcess) -> None:
        """Take the first worker and start the others; PluginError when one cannot be started."""
        self._is_open = True
        self._add(first)
        self._fill()
        while len(self._lanes) < self._size:
            done, _ = await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def stop(self) -> None:
        """Kill every worker; calls that were not answered fail."""
        self._is_open = False
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            lane.drop_timer()
            lane.process.kill()
        for request in [*self._queue, *(request for lane in lanes for request in lane.sent)]:
            request.fail("scoring was stopped")
        await asyncio.gather(*(lane.process.reap() for lane in lanes), *self._ending)

    def submit(self, request: Request) -> None:
        """Have a call computed as soon as a worker can."""
        self._queue.append(request)
        if not self._lanes:
            self._fill()
        self._dispatch()

    def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            lane = self._free_lane(loop.time())
            if lane is None:
                return
            request = self._queue.popleft()
            if request.scores.done():  # whoever asked has left
                continue
            lane.sent.append(request)
            lane.process.send(request.frames)
            if len(lane.sent) == 1:
                self._begin(lane, loop)

    def _free_lane(self, now: float) -> _Lane | None:
        lane = min(self._lanes[: self._size], key=lambda lane: len(lane.sent), default=None)
        if lane is None or not lane.sent:
            return lane
        ahead = min(MAX_AHEAD, 1 + int(AHEAD_S / self._call_s))
        # A call that takes longer than expected may be one that never ends: nothing is sent after it.
        return lane if len(lane.sent) < ahead and now - lane.sent[0].since < AHEAD_S else None

    def _begin(self, lane: _Lane, loop: asyncio.AbstractEventLoop) -> None:
        """The first call's time runs from now."""
        head = lane.sent[0]
        head.since = loop.time()
        deadline = head.since + head.timeout_s
        if lane.timer is not None and lane.timer.when() > deadline:
            lane.drop_timer()
        if lane.timer is None:
            lane.timer = loop.call_at(deadline, self._check, lane)

    def _check(self, lane: _Lane) -> None:
        # One timer for many calls: it is set anew only when it rings and its call has been answered.
        lane.timer = None
        loop = asyncio.get_running_loop()
        if not lane.sent:
            return
        head = lane.sent[0]
        if loop.time() < head.since + head.timeout_s:
            lane.timer = loop.call_at(head.since + head.timeout_s, self._check, lane)
            return
        logger.warning("reward: a call was over its %g s; worker replaced", head.timeout_s)
        lane.process.kill()
        lane.sent.popleft()
        head.expire(loop.time() - head.since)
        self._track(lane.process.reap())
        self._remove(lane)

    def _answered(self, lane: _Lane, payload: bytes) -> None:
        call_id, scores = decode_reply(payload)
        request = lane.sent.popleft()
        assert request.id == call_id, "a worker answers in order"
        self._call_s += 0.2 * (min(scores[0].seconds, 1.0) - self._call_s) if scores else 0.0
        self._call_s = max(self._call_s, 1e-6)
        request.answer(scores)
        if lane.sent:
            self._begin(lane, asyncio.get_running_loop())
        self._dispatch()

    def _lost(self, lane: _Lane) -> None:
        """A worker ended by itself."""
        lane.process.kill()  # what it started is still there
        lane.drop_timer()
        head = lane.sent.popleft() if lane.sent else None
        self._track(self._explain(lane, head))
        self._remove(lane)

    async def _explain(self, lane: _Lane, head: Request | None) -> int:
        status = await lane.process.reap()
        ended = how_it_ended(status)
        logger.warning("reward: a worker %s and was replaced", ended)
        if head is not None:
            head.fail(f"the worker process {ended} while scoring")
        return status

    def _remove(self, lane: _Lane) -> None:
        """Go on without a worker: what waited behind its call comes first elsewhere."""
        if lane not in self._lanes:
            return
        self._lanes.remove(lane)
        self._queue.extendleft(reversed(lane.sent))
        lane.sent.clear()
        self._fill()
        self._dispatch()

    def _fill(self) -> None:
        """Start workers until there are enough, the spare one included."""
        if not self._is_open:
            return
        for _ in range(self._size + 1 - len(self._lanes) - len(self._starting)):
            task = asyncio.create_task(self._start_one())
            self._starting.add(task)
            task.add_done_callback(self._started)

    async def _start_one(self) -> None:
        self._add(await WorkerProcess.start(self._spec, self._start_timeout_s))

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        logger.error("reward: a worker could not be started: %s", error)
        if not self._lanes and not self._starting:
            said = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            while self._queue:
                self._queue.popleft().fail(f"no worker could be started: {said}")

    def _add(self, process: WorkerProcess) -> None:
        lane = _Lane(process)
        process.on_frame = partial(self._answered, lane)
        process.on_lost = partial(self._lost, lane)
        process.send(frame(COMPUTE))
        self._lanes.append(lane)
        self._dispatch()

    def _track(self, work: Coroutine[Any, Any, int]) -> None:  # Any: asyncio's own
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
