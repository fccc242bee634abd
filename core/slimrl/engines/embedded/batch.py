"""The requests that are being computed: which prompt or row each reads, and what its next token is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch

from slimrl.engines.embedded.params import Sampling
from slimrl.engines.embedded.request import FinishReason, Request, TopTokens
from slimrl.engines.embedded.runner import Prompt, Row, Runner
from slimrl.engines.embedded.sampling import Drawn, draw
from slimrl.engines.embedded.stops import Decode, finish_reason, stop_ids

Source = tuple[Prompt | Row, list[Request]]
"""Whose logits the requests draw from next."""


class Batch:
    """Requests that share a prompt share its prefill; those that also drew the same tokens share a row."""

    def __init__(self, runner: Runner, end_ids: frozenset[int], decode: Decode, *, deterministic: bool) -> None:
        self.num_generated = 0
        self.model_cpu_s = 0.0
        """CPU seconds that passes over the model and drawing from its logits have taken, all threads together."""
        self._runner = runner
        self._end_ids = end_ids
        self._decode = decode
        self._deterministic = deterministic
        self._joining: dict[Prompt, list[Request]] = {}
        """Requests whose prompt is being computed."""
        self._rows: dict[Row, list[Request]] = {}
        """Rows being decoded, oldest first, and who reads them."""

    def __bool__(self) -> bool:
        return bool(self._joining or self._rows)

    def requests(self) -> list[Request]:
        """Everybody in the batch."""
        return [request for group in (*self._joining.values(), *self._rows.values()) for request in group]

    def add(self, request: Request) -> None:
        """Take a request in; it goes on after the tokens that it has."""
        needs_scores = request.score_from is not None and not request.output_ids
        prompt = self._runner.open(request.context, request.score_from if needs_scores else None)
        self._joining.setdefault(prompt, []).append(request)

    def prefill(self, version: str) -> list[Request]:
        """Compute a share of the prompts and draw the first tokens after those that are ready; returns who finished."""
        if self._runner.has_pending_prefill():
            with self._counted():
                self._runner.prefill()
        ready = [prompt for prompt in self._joining if prompt.logits is not None]
        finished: list[Request] = []
        sources: list[Source] = []
        for prompt in ready:
            requests = self._joining.pop(prompt)
            for request in requests:
                if not request.output_ids:
                    request.num_cached = prompt.num_cached
                    _report_scores(request, prompt)
                prompt.num_cached = len(prompt.context) - 1  # for whoever comes after the first
                request.weight_version = version
                if request.sampling.max_new_tokens == 0:
                    request.finish_reason = {"type": "length", "length": 0}
                    finished.append(request)
            drawing = [request for request in requests if request.finish_reason is None]
            if drawing:
                sources.append((prompt, drawing))
            # every request was a user; rows are users of their own, until then this one is
            prompt.num_users += 1
            for _ in requests:
                self._runner.close_prompt(prompt)
        if sources:
            logits = [prompt.logits for prompt in ready if prompt.logits is not None]
            place = {id(prompt): index for index, prompt in enumerate(ready)}
            rows = torch.stack(logits)[[place[id(source)] for source, _ in sources]]
            finished += self._advance(sources, rows, version)
        for prompt in ready:
            self._runner.close_prompt(prompt)
        return finished

    def decode(self, version: str) -> list[Request]:
        """One more token for every row; returns who finished."""
        if not self._rows:
            return []
        with self._counted():
            rows, logits = self._runner.decode()
        return self._advance([(row, self._rows[row]) for row in rows], logits, version)

    def growth(self) -> int:
        """Tokens of room that the next step takes."""
        return sum(row.capacity for row in self._rows if row.length == row.capacity)

    def youngest(self) -> list[Request]:
        """The requests of the row that began last, or nobody when there is but one."""
        return self._rows[next(reversed(self._rows))] if len(self._rows) > 1 else []

    def remove(self, requests: Sequence[Request]) -> None:
        """Take requests out and free what nobody needs then; those that are not in are passed over."""
        gone = {id(request) for request in requests}
        for prompt, members in list(self._joining.items()):
            self._joining[prompt] = [request for request in members if id(request) not in gone]
            for _ in range(len(members) - len(self._joining[prompt])):
                self._runner.close_prompt(prompt)
            if not self._joining[prompt]:
                del self._joining[prompt]
        for row, members in list(self._rows.items()):
            self._rows[row] = [request for request in members if id(request) not in gone]
            if not self._rows[row]:
                del self._rows[row]
                self._runner.close_row(row)

    def clear(self) -> None:
        """Forget everybody, in whatever state a failed step has left them."""
        self._joining.clear()
        self._rows.clear()
        self._runner.reset()

    def _advance(self, sources: Sequence[Source], logits: torch.Tensor, version: str) -> list[Request]:
        """Give every request its next token from its source's row of logits, and start, fork or end rows."""
        with self._counted():
            drawn = iter(self._draw(sources, logits))
        finished: list[Request] = []
        for source, requests in sources:
            by_token: dict[int, list[Request]] = {}
            for request in requests:
                request.finish_reason = self._take(request, next(drawn), version)
                if request.finish_reason is not None:
                    finished.append(request)
                    continue
                by_token.setdefault(request.output_ids[-1], []).append(request)
                if request.on_progress is not None:
                    request.on_progress()
            self._continue(source, by_token)
        return finished

    def _take(self, request: Request, drawn: Drawn, version: str) -> FinishReason | None:
        if drawn.log_prob != drawn.log_prob:
            return failure("the model's logits are not finite")
        request.append(drawn.token, drawn.log_prob, drawn.top, version)
        self.num_generated += 1
        return finish_reason(request, self._end_ids, self._decode)

    def _draw(self, sources: Sequence[Source], logits: torch.Tensor) -> list[Drawn]:
        def stops(sampling: Sampling) -> frozenset[int]:
            return stop_ids(sampling, self._end_ids)

        with torch.inference_mode():
            if self._deterministic:
                rows = zip(sources, torch.split(logits, 1), strict=True)
                return [one for (_, own), row in rows for one in draw(row, own, [0] * len(own), stops)]
            flat = [request for _, requests in sources for request in requests]
            row_of = [index for index, (_, requests) in enumerate(sources) for _ in requests]
            return draw(logits, flat, row_of, stops)

    def _continue(self, source: Prompt | Row, by_token: dict[int, list[Request]]) -> None:
        """One row for each token that was drawn: requests that agree share it."""
        if isinstance(source, Prompt):
            for token, requests in by_token.items():
                self._rows[self._runner.start(source, token)] = requests
            return
        for index, (token, requests) in enumerate(by_token.items()):
            if index == 0:
                source.token = token
                self._rows[source] = requests
            else:
                self._rows[self._runner.fork(source, token)] = requests
        if not by_token:
            del self._rows[source]
            self._runner.close_row(source)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        started_s = time.process_time()
        yield
        self.model_cpu_s += time.process_time() - started_s


def failure(message: str) -> FinishReason:
    """Why a request ends that the engine, not the caller, has spoiled."""
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
