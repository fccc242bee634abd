"""Decides on a thread of its own what the model computes next: requests join and leave at every step."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal, TypeVar

from slimrl.engines.embedded.batch import Batch, failure
from slimrl.engines.embedded.inbox import Inbox, UnavailableError
from slimrl.engines.embedded.options import EngineOptions
from slimrl.engines.embedded.request import Request
from slimrl.engines.embedded.runner import Runner
from slimrl.engines.embedded.stops import Decode
from slimrl.heap import return_free_pages

logger = logging.getLogger(__name__)

_HEADROOM = 32
"""New tokens that a request must have room for to be admitted: fewer, and it would soon be sent back."""

T = TypeVar("T")
PauseMode = Literal["abort", "in_place", "retract"]


class QueueFullError(UnavailableError):
    """More requests wait than the engine holds."""


class Scheduler:
    """Owns the runner; everything it does happens on its thread, in the order it was asked for."""

    def __init__(
        self, runner: Runner, options: EngineOptions, budget: int, end_ids: frozenset[int], decode: Decode
    ) -> None:
        self.runner = runner
        self.weight_version = options.weight_version
        self.budget = budget
        """Tokens whose keys and values are kept at most."""
        self.is_paused = False
        self.tokens_per_s = 0.0
        """Of the latest step."""
        self._options = options
        self._inbox = Inbox()
        self._batch = Batch(runner, end_ids, decode, deterministic=options.deterministic)
        self._waiting: deque[Request] = deque()
        self._num_queued = 0
        self._count_lock = threading.Lock()
        """Callers raise `_num_queued`, the scheduler's thread lowers it."""
        self._reserved: dict[Request, int] = {}
        """Tokens set aside for each admitted request."""
        self._tidy_version: str | None = None
        """Weight version under which memory was last given back."""
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    # Called from any thread

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more and, after the current step, abort what is in flight and end the thread."""
        self._inbox.close()

    def close(self) -> None:
        """Stop, and wait for the thread's end."""
        self.stop()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still serves."""
        return self._thread.is_alive() and not self._inbox.is_closed

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        return len(self._reserved)

    @property
    def num_waiting(self) -> int:
        """Requests accepted and not admitted."""
        return self._num_queued

    @property
    def num_generated(self) -> int:
        """Tokens since the start."""
        return self._batch.num_generated

    @property
    def model_cpu_s(self) -> float:
        """CPU seconds that passes over the model and drawing from its logits have taken, all threads together."""
        return self._batch.model_cpu_s

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests together; raises QueueFullError when they do not all fit."""
        limit = self._options.max_queued_requests
        with self._count_lock:
            if self._num_queued + len(requests) > limit:
                raise QueueFullError(f"{self._num_queued} requests are waiting; at most {limit} may")
            self._num_queued += len(requests)
        for request in requests:
            request.done.set_running_or_notify_cancel()
        self._inbox.put(lambda: self._waiting.extend(requests))

    def call(self, action: Callable[[], T]) -> Future[T]:
        """Run something between two steps on the scheduler's thread."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(action())
            except Exception as error:  # handed to whoever waits for the result
                result.set_exception(error)

        self._inbox.put(run)
        return result

    # Called on the scheduler's thread, through `call`

    def abort(self, matches: Callable[[Request], bool]) -> int:
        """Finish matching requests with what they have; returns how many."""
        found = [request for request in (*self._waiting, *self._batch.requests()) if matches(request)]
        self._batch.remove(found)
        gone = {id(request) for request in found}
        kept = [request for request in self._waiting if id(request) not in gone]
        self._count_queued(len(kept) - len(self._waiting))
        self._waiting = deque(kept)
        for request in found:
            request.finish_reason = {"type": "abort", "message": "Aborted by AbortReq."}
            self._finish(request)
        return len(found)

    def pause(self, mode: PauseMode) -> None:
        """Stop computing: finish everything (abort), keep it as it stands (in_place) or drop its cache (retract)."""
        if mode == "abort":
            self.abort(lambda request: True)
        elif mode == "retract":
            self._retract(self._batch.requests())
        self.is_paused = True

    def resume(self) -> None:
        """Go on after a pause."""
        self.is_paused = False

    @property
    def is_busy(self) -> bool:
        """Whether requests hold what is stored, or are about to; those that a pause keeps waiting do not."""
        return bool(self._reserved or (self._num_queued and not self.is_paused))

    # The thread

    def _run(self) -> None:
        while True:
            for action in self._inbox.take(has_work=self._has_work()):
                action()
            if self._inbox.is_closed:
                for action in self._inbox.take(has_work=True):  # what came just before it was closed
                    action()
                self.abort(lambda request: True)
                return
            if self._has_work():
                try:
                    self._step()
                except Exception as error:  # the requests of this step fail, the engine stays
                    logger.exception("a step failed with %d requests in flight", self.num_running)
                    self._fail(error)
                if self._tidy_version != self.weight_version and not self._has_work():
                    return_free_pages()
                    self._tidy_version = self.weight_version

    def _has_work(self) -> bool:
        return not self.is_paused and bool(self._waiting or self._batch)

    def _step(self) -> None:
        started_s = time.perf_counter()
        num_before = self.num_generated
        self._admit()
        for request in self._batch.prefill(self.weight_version):
            self._finish(request)
        self._make_room()
        for request in self._batch.decode(self.weight_version):
            self._finish(request)
        self.tokens_per_s = (self.num_generated - num_before) / (time.perf_counter() - started_s)

    def _admit(self) -> None:
        """Move waiting requests into the batch while they fit."""
        while self._waiting and self.num_running < self._options.max_running_requests:
            request = self._waiting[0]
            num_new = request.sampling.max_new_tokens - len(request.output_ids)
            if self._options.deterministic:
                # what is reserved for all of it is never taken back: a retraction would change its numbers
                need = self.runner.tokens_needed(len(request.context), num_new)
                held = sum(self._reserved.values())
            else:
                need = self.runner.tokens_needed(len(request.context), min(num_new, _HEADROOM))
                held = self.runner.tokens_held()
            if self._reserved and held + need > self.budget:
                return
            self._waiting.popleft()
            self._count_queued(-1)
            self._reserved[request] = need
            self._batch.add(request)

    def _make_room(self) -> None:
        """Send the youngest rows back to the queue until the next step fits the budget."""
        while self.runner.tokens_held() + self._batch.growth() > self.budget and (youngest := self._batch.youngest()):
            self._retract(youngest)

    def _retract(self, requests: Sequence[Request]) -> None:
        """Drop what is stored for requests and queue them first; they go on from the tokens they have."""
        ordered = sorted(requests, key=lambda request: request.created_s)
        self._batch.remove(ordered)
        for request in ordered:
            request.num_retractions += 1
            del self._reserved[request]
        self._waiting.extendleft(reversed(ordered))
        self._count_queued(len(ordered))

    def _finish(self, request: Request) -> None:
        """Answer a request whose finish reason is set."""
        request.finished_s = time.monotonic()
        request.weight_version = request.weight_version or self.weight_version
        self._reserved.pop(request, None)
        request.done.set_result(None)
        if request.on_progress is not None:
            request.on_progress()

    def _fail(self, error: Exception) -> None:
        for request in list(self._reserved):
            request.finish_reason = request.finish_reason or failure(f"the engine failed: {error!r}")
            self._finish(request)
        self._batch.clear()

    def _count_queued(self, change: int) -> None:
        with self._count_lock:
            self._num_queued += change
