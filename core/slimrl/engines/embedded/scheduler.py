"""Decides on a thread of its own what the model computes next: requests join and leave at every step."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Literal, TypeVar

import torch

from slimrl.engines.embedded.options import EngineOptions
from slimrl.engines.embedded.params import Sampling
from slimrl.engines.embedded.request import FinishReason, Request, TopTokens
from slimrl.engines.embedded.runner import Prompt, Row, Runner
from slimrl.engines.embedded.sampling import Drawn, draw
from slimrl.engines.embedded.stops import Decode, finish_reason, stop_ids
from slimrl.errors import EngineError
from slimrl.heap import return_free_pages

logger = logging.getLogger(__name__)

_QUIET_S = 0.003
"""An idle engine begins when nothing has come for so long..."""
_LONGEST_GATHER_S = 0.05
"""...or when the first request has waited for so long."""

T = TypeVar("T")
PauseMode = Literal["abort", "in_place", "retract"]


class QueueFullError(EngineError):
    """More requests wait than the engine holds; the server answers 503."""


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
        self.num_generated = 0
        self.tokens_per_s = 0.0
        """Of the latest step."""
        self.model_cpu_s = 0.0
        """CPU seconds that passes over the model and drawing from its logits have taken, all threads together."""
        self._options = options
        self._end_ids = end_ids
        self._decode = decode
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._is_closing = False
        self._tidy_version: str | None = None
        """Weight version under which memory was last given back."""
        self._num_queued = 0
        self._waiting: deque[Request] = deque()
        self._joining: dict[Prompt, list[Request]] = {}
        """Requests whose prompt is being computed."""
        self._rows: dict[Row, list[Request]] = {}
        """Rows being decoded, oldest first, and who reads them."""
        self._reserved: dict[Request, int] = {}
        """Tokens set aside for each admitted request."""
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    # Called from any thread

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more and, after the current step, abort what is in flight and end the thread."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()

    def close(self) -> None:
        """Stop, and wait for the thread's end."""
        self.stop()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still serves."""
        return self._thread.is_alive() and not self._is_closing

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        return len(self._reserved)

    @property
    def num_waiting(self) -> int:
        """Requests accepted and not admitted."""
        return self._num_queued

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests together; raises QueueFullError when they do not all fit."""
        with self._wake:
            limit = self._options.max_queued_requests
            if self._num_queued + len(requests) > limit:
                raise QueueFullError(f"{self._num_queued} requests are waiting; at most {limit} may")
            if not self.is_alive:
                raise EngineError("the engine is shutting down")
            self._num_queued += len(requests)
            for request in requests:
                request.done.set_running_or_notify_cancel()
            self._inbox.append(lambda: self._waiting.extend(requests))
            self._wake.notify()

    def call(self, action: Callable[[], T]) -> Future[T]:
        """Run something between two steps on the scheduler's thread."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(action())
            except Exception as error:  # handed to whoever waits for the result
                result.set_exception(error)

        with self._wake:
            if self._is_closing:
                raise EngineError("the engine is shutting down")
            self._inbox.append(run)
            self._wake.notify()
        return result

    # Called on the scheduler's thread, through `call`

    def abort(self, matches: Callable[[Request], bool]) -> int:
        """Finish matching requests with what they have; returns how many."""
        found = [request for request in self._all() if matches(request)]
        self._withdraw(found)
        for request in found:
            self._finish(request, {"type": "abort", "message": "Aborted by AbortReq."})
        return len(found)

    def pause(self, mode: PauseMode) -> None:
        """Stop computing: finish everything (abort), keep it as it stands (in_place) or drop its cache (retract)."""
        if mode == "abort":
            self.abort(lambda request: True)
        elif mode == "retract":
            self._retract([request for requests in self._admitted() for request in requests])
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
            with self._wake:
                is_idle = not self._has_work()
                while not (self._inbox or self._is_closing or self._has_work()):
                    self._wake.wait()
                if is_idle:
                    self._gather()
                is_closing = self._is_closing
                actions = list(self._inbox)
                self._inbox.clear()
            for action in actions:
                action()
            if is_closing:
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

    def _gather(self) -> None:
        """Wait for the rest of a burst: requests that begin together share most. Holds the lock.

        A rollout's requests come one HTTP call after the other; without this the first would run a step alone.
        """
        deadline_s = time.monotonic() + _LONGEST_GATHER_S
        count = -1
        while count != len(self._inbox) and not self._is_closing and time.monotonic() < deadline_s:
            count = len(self._inbox)
            self._wake.wait(_QUIET_S)

    def _has_work(self) -> bool:
        return not self.is_paused and bool(self._waiting or self._joining or self._rows)

    def _step(self) -> None:
        started_s = time.perf_counter()
        num_before = self.num_generated
        ready = self._admit()
        if self.runner.has_pending_prefill():
            with self._counted():
                ready += self.runner.prefill()
        if ready:
            self._begin(ready)
        self._make_room()
        if self._rows:
            with self._counted():
                rows, logits = self.runner.decode()
            self._advance([(row, self._rows[row]) for row in rows], logits)
        self.tokens_per_s = (self.num_generated - num_before) / (time.perf_counter() - started_s)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        started_s = time.process_time()
        yield
        self.model_cpu_s += time.process_time() - started_s

    def _admit(self) -> list[Prompt]:
        """Ask for the prompts of waiting requests that fit; returns those that are there already."""
        ready = []
        while self._waiting and self.num_running < self._options.max_running_requests:
            request = self._waiting[0]
            context = request.context
            num_new = request.sampling.max_new_tokens - len(request.output_ids)
            # what a deterministic request has reserved is never taken back: a retraction would change its numbers
            need = self.runner.tokens_needed(len(context), num_new if self._options.deterministic else 1)
            held = sum(self._reserved.values()) if self._options.deterministic else self.runner.tokens_held()
            if self._reserved and held + need > self.budget:
                break
            self._waiting.popleft()
            self._num_queued -= 1
            self._reserved[request] = need
            needs_scores = request.score_from is not None and not request.output_ids
            prompt = self.runner.open(context, request.score_from if needs_scores else None)
            self._joining.setdefault(prompt, []).append(request)
            if prompt.logits is not None and prompt not in ready:
                ready.append(prompt)
        return ready

    def _begin(self, prompts: Sequence[Prompt]) -> None:
        """Draw the first tokens after prompts that are ready."""
        continued: list[tuple[Prompt, list[Request]]] = []
        for prompt in prompts:
            requests = self._joining.pop(prompt)
            for request in requests:
                if not request.output_ids:
                    request.num_cached = prompt.num_cached
                    _report_scores(request, prompt)
                prompt.num_cached = len(prompt.context) - 1  # for whoever comes after the first
                request.weight_version = self.weight_version
            for request in requests:
                if request.sampling.max_new_tokens == 0:
                    self._finish(request, {"type": "length", "length": 0})
            continued.append((prompt, [request for request in requests if request.sampling.max_new_tokens > 0]))
            # every request was one user; `requests` are all gone or about to be rows of their own
            prompt.num_users += 1
            for _ in requests:
                self.runner.close_prompt(prompt)
        drawing = [(prompt, requests) for prompt, requests in continued if requests]
        if drawing:
            logits = [prompt.logits for prompt, _ in drawing if prompt.logits is not None]
            self._advance(drawing, torch.stack(logits))
        for prompt, _ in continued:
            self.runner.close_prompt(prompt)

    def _advance(self, sources: Sequence[tuple[Prompt | Row, list[Request]]], logits: torch.Tensor) -> None:
        """Give every request its next token from its source's row of logits, and start, fork or end rows."""
        version = self.weight_version
        with self._counted():
            drawn = iter(self._draw(sources, logits))
        for source, requests in sources:
            by_token: dict[int, list[Request]] = {}
            for request in requests:
                choice = next(drawn)
                if choice.log_prob != choice.log_prob:
                    self._finish(request, _failure("the model's logits are not finite"))
                    continue
                request.append(choice.token, choice.log_prob, choice.top, version)
                self.num_generated += 1
                reason = finish_reason(request, self._end_ids, self._decode)
                if reason is not None:
                    self._finish(request, reason)
                    continue
                by_token.setdefault(choice.token, []).append(request)
                if request.on_progress is not None:
                    request.on_progress()
            self._continue(source, by_token)

    def _draw(self, sources: Sequence[tuple[Prompt | Row, list[Request]]], logits: torch.Tensor) -> list[Drawn]:
        def stops(sampling: Sampling) -> frozenset[int]:
            return stop_ids(sampling, self._end_ids)

        with torch.inference_mode():
            if self._options.deterministic:
                rows = zip(sources, torch.split(logits, 1), strict=True)
                return [d for (_, own), row in rows for d in draw(row, own, [0] * len(own), stops)]
            flat = [request for _, requests in sources for request in requests]
            row_of = [index for index, (_, requests) in enumerate(sources) for _ in requests]
            return draw(logits, flat, row_of, stops)

    def _continue(self, source: Prompt | Row, by_token: dict[int, list[Request]]) -> None:
        """One row for each token that was drawn: requests that agree share it."""
        if isinstance(source, Prompt):
            for token, requests in by_token.items():
                self._rows[self.runner.start(source, token)] = requests
            return
        for index, (token, requests) in enumerate(by_token.items()):
            if index == 0:
                source.token = token
                self._rows[source] = requests
            else:
                self._rows[self.runner.fork(source, token)] = requests
        if not by_token:
            del self._rows[source]
            self.runner.close_row(source)

    def _make_room(self) -> None:
        """Send the youngest rows back to the queue until the next step fits the budget."""
        while len(self._rows) > 1:
            growth = sum(row.capacity for row in self._rows if row.length == row.capacity)
            if self.runner.tokens_held() + growth <= self.budget:
                return
            self._retract(self._rows[next(reversed(self._rows))])

    def _retract(self, requests: Sequence[Request]) -> None:
        """Drop what is stored for requests and queue them first; they go on from the tokens they have."""
        ordered = sorted(requests, key=lambda request: request.created_s)
        self._withdraw(ordered)
        for request in ordered:
            request.num_retractions += 1
            del self._reserved[request]
        self._waiting.extendleft(reversed(ordered))
        self._num_queued += len(ordered)

    def _withdraw(self, requests: Sequence[Request]) -> None:
        """Take requests out of the queue, prompts and rows, and free what nobody needs then."""
        gone = {id(request) for request in requests}
        kept = [request for request in self._waiting if id(request) not in gone]
        self._num_queued -= len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        for prompt, members in list(self._joining.items()):
            self._joining[prompt] = [request for request in members if id(request) not in gone]
            for _ in range(len(members) - len(self._joining[prompt])):
                self.runner.close_prompt(prompt)
            if not self._joining[prompt]:
                del self._joining[prompt]
        for row, members in list(self._rows.items()):
            self._rows[row] = [request for request in members if id(request) not in gone]
            if not self._rows[row]:
                del self._rows[row]
                self.runner.close_row(row)

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        request.finished_s = time.monotonic()
        request.weight_version = request.weight_version or self.weight_version
        self._reserved.pop(request, None)
        request.done.set_result(None)
        if request.on_progress is not None:
            request.on_progress()

    def _fail(self, error: Exception) -> None:
        for request in list(self._reserved):
            self._finish(request, _failure(f"the engine failed: {error!r}"))
        self._joining.clear()
        self._rows.clear()
        self.runner.reset()

    def _admitted(self) -> Iterable[list[Request]]:
        yield from self._joining.values()
        yield from self._rows.values()

    def _all(self) -> list[Request]:
        return [*self._waiting, *(request for requests in self._admitted() for request in requests)]


def _failure(message: str) -> FinishReason:
    return {"type": "abort", "message": message, "status_code": 500, "err_type": "InternalServerError"}


def _report_scores(request: Request, prompt: Prompt) -> None:
    """Copy the prompt's log-probs, computed once for all its requests."""
    if request.score_from is None:
        return
    request.input_log_probs = torch.cat(prompt.input_log_probs).tolist() if prompt.input_log_probs else []
    if request.num_top and prompt.input_top:
        tops: list[TopTokens] = []
        for log_probs, ids in prompt.input_top:
            for values, tokens in zip(
                log_probs[:, : request.num_top].tolist(), ids[:, : request.num_top].tolist(), strict=True
            ):
                tops.append(list(zip(values, tokens, strict=True)))
        request.input_top = tops
