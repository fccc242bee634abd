"""The client of an engine: generation on the hot path, and every call that controls the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from slimrl.engines.completion import parse_completion, parse_log_probs
from slimrl.engines.dialect import Dialect, dialect_of
from slimrl.engines.http import EngineHttp, Json, decode
from slimrl.errors import EngineError
from slimrl.types import Completion, SamplingParams

PauseMode = Literal["abort", "in_place", "retract"]
"""What becomes of requests in flight: they end with what they have, they wait with their KV cache, or they wait and
compute it again under the weights that they find."""

_LONG_BYTES = 32768  # an answer of this length takes about 0.2 ms


class HttpEngineClient:
    """Speaks SGLang's HTTP API to one engine, for one event loop; an asynchronous context manager.

    `concurrency` bounds the generations in flight; control calls pass them. With `vocab_size`, token ids outside the
    vocabulary are refused here: SGLang dies of them.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 512,
        vocab_size: int | None = None,
        generate_timeout_s: float = 4 * 3600.0,
        control_timeout_s: float = 600.0,
        retry_s: float = 60.0,
        reconnect_s: float | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = EngineHttp(url, retry_s=retry_s, reconnect_s=reconnect_s)
        self._slots = asyncio.Semaphore(concurrency)
        self._parsing = asyncio.Lock()
        self._vocab_size = vocab_size
        self._generate_timeout_s = generate_timeout_s
        self._control_timeout_s = control_timeout_s
        self._dialect: Dialect | None = None
        self._rids: dict[str, str] = {}  # request id -> the rid that its current attempt has on the server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; what is in flight ends."""
        await self._http.close()

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        """One response with the log-prob and weight version of each token.

        `request_id` names it for `abort`, unique among the requests in flight. Raises EngineError when the engine
        refuses it, stays unreachable, or answers something that is not a generation.
        """
        self._check(input_ids)
        body: dict[str, Any] = {
            "input_ids": list(input_ids),
            "sampling_params": _sampling(sampling),
            "return_logprob": True,
        }

        def named(attempt: int) -> dict[str, Any]:
            # The server may still hold the attempt whose connection broke, and refuses a name twice. It matches names
            # to abort by prefix: the slash keeps request 1 from being a prefix of request 10.
            if request_id is not None:
                body["rid"] = self._rids[request_id] = f"{request_id}/{attempt}"
            return body

        async with self._slots:
            start = time.perf_counter()
            try:
                answer = await self._http.call(
                    "POST", "/generate", named(0), timeout_s=self._generate_timeout_s, next_body=named
                )
            finally:
                if request_id is not None:
                    self._rids.pop(request_id, None)
        return await self._parse(answer, time.perf_counter() - start)

    async def log_probs(self, tokens: Sequence[int]) -> list[float]:
        """Log-prob of every token but the first, each after those before it, at temperature 1; nothing is generated.

        Raises EngineError as `generate` does.
        """
        self._check(tokens)
        body = {
            "input_ids": list(tokens),
            "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        async with self._slots:
            answer = await self._http.call("POST", "/generate", body, timeout_s=self._generate_timeout_s)
        return parse_log_probs(answer, tokens)

    async def _parse(self, body: bytes, seconds: float) -> Completion:
        if len(body) < _LONG_BYTES:
            return parse_completion(body, seconds)
        # One in a turn of the event loop: when a batch is cut off, thousands of long answers come at once.
        async with self._parsing:
            completion = parse_completion(body, seconds)
            await asyncio.sleep(0)
        return completion

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when the engine answers GET /health; EngineError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                await self._http.call("GET", "/health", timeout_s=max(deadline - time.monotonic(), 0.1), retry=False)
                return
            except EngineError as error:
                if time.monotonic() >= deadline:
                    raise EngineError(f"engine {self.url} is not ready after {timeout_s:.0f} s ({error})") from error
            await asyncio.sleep(0.2)

    async def is_healthy(self, timeout_s: float = 20.0) -> bool:
        """Whether GET /health answers 200; a real SGLang generates one token for it."""
        try:
            await self._http.call("GET", "/health", timeout_s=timeout_s, retry=False)
        except EngineError:
            return False
        return True

    async def model_info(self) -> dict[str, Json]:
        """Model path, tokenizer path, weight version and architectures."""
        return await self._get("/model_info")

    async def server_info(self) -> dict[str, Json]:
        """The server's arguments, limits and version."""
        return await self._get("/server_info")

    async def weight_version(self) -> str:
        """The version of the weights that the engine serves, as it was given."""
        return str((await self.model_info())["weight_version"])

    async def num_requests(self) -> int:
        """Requests that run or wait on the engine."""
        path = (await self._speak()).loads_path
        reply = decode(await self._http.call("GET", path, timeout_s=self._control_timeout_s))
        loads = reply["loads"] if isinstance(reply, dict) else reply
        if loads and "num_running_reqs" in loads[0]:
            return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)
        return sum(load["num_reqs"] for load in loads)  # /get_load counts the waiting ones in

    async def abort(self, request_id: str) -> None:
        """End one request; its `generate` returns what it had, with finish_reason "abort". Unknown ids are ignored."""
        await self._post("/abort_request", {"rid": self._rids.get(request_id, f"{request_id}/0")})

    async def abort_all(self) -> None:
        """End every request, of other clients too."""
        await self._post("/abort_request", {"abort_all": True})

    async def pause(self, mode: PauseMode) -> None:
        """Stop generating; new requests wait until `resume`."""
        await self._post("/pause_generation", {"mode": mode})

    async def resume(self) -> None:
        """Go on generating after `pause`."""
        await self._post("/continue_generation", {})

    async def flush_cache(self, timeout_s: float = 30.0) -> None:
        """Drop cached prefixes; EngineError when requests still hold the cache after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        wait_s = 0.01
        while True:
            try:
                await self._post("/flush_cache", {})
                return
            except EngineError as error:  # 400: requests run; one that just ended may hold its cache for a moment
                if time.monotonic() + wait_s > deadline:
                    raise EngineError(f"{error}; end or abort the requests that run, then flush") from error
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 1.0)

    async def update_weights_from_disk(self, folder: Path, version: int) -> None:
        """Load an HF checkpoint that the engine can read; on an EngineError the old weights keep serving."""
        body = {"model_path": str(folder), "weight_version": str(version), "flush_cache": False}
        await self._post("/update_weights_from_disk", body)

    async def begin_weight_update(self) -> None:
        """Open a session of tensor updates; nothing on an engine that has none (SGLang before 0.5.21)."""
        if (await self._speak()).brackets_updates:
            await self._post("/begin_weight_update", {}, retry=False)

    async def end_weight_update(self) -> None:
        """Close a session of tensor updates."""
        if (await self._speak()).brackets_updates:
            await self._post("/end_weight_update", {}, retry=False)

    async def update_weights_from_tensor(self, tensors: str, load_format: str, version: int) -> None:
        """Load the named tensors that `tensors` describes, in the way that `load_format` says."""
        body = {
            "serialized_named_tensors": [tensors],
            "load_format": load_format,
            "flush_cache": False,
            "weight_version": str(version),
        }
        await self._post("/update_weights_from_tensor", body)

    async def update_weight_version(self, version: int) -> None:
        """Rename the version of the weights that the engine serves."""
        await self._post("/update_weight_version", {"new_version": str(version), "abort_all_requests": False})

    def _check(self, input_ids: Sequence[int]) -> None:
        if not input_ids:
            raise EngineError("cannot generate from an empty prompt; give at least one token id")
        low, high = min(input_ids), max(input_ids)
        if low < 0 or (self._vocab_size is not None and high >= self._vocab_size):
            raise EngineError(
                f"token id {low if low < 0 else high} is not in the vocabulary of {self._vocab_size or 'any'} tokens; "
                "was the prompt tokenized for another model?"
            )

    async def _speak(self) -> Dialect:
        if self._dialect is None:
            self._dialect = dialect_of(str((await self.server_info()).get("version", "")))
        return self._dialect

    async def _get(self, path: str) -> dict[str, Json]:
        reply: dict[str, Json] = decode(await self._http.call("GET", path, timeout_s=self._control_timeout_s))
        return reply

    async def _post(self, path: str, body: Mapping[str, Json], *, retry: bool = True) -> None:
        answer = await self._http.call("POST", path, body, timeout_s=self._control_timeout_s, retry=retry)
        if answer.startswith(b"{"):  # some answer a line of text
            reply = decode(answer)
            if reply.get("success") is False:
                raise EngineError(f"engine {self.url} failed POST {path}: {reply.get('message', 'no message')}")


def _sampling(params: SamplingParams) -> dict[str, Any]:
    """The request's sampling_params; the text keeps a stop string, so that it says what the tokens say."""
    fields: dict[str, Any] = {
        "max_new_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "skip_special_tokens": params.skip_special_tokens,
        "no_stop_trim": True,
    }
    if params.stop:
        fields["stop"] = params.stop
    if params.stop_token_ids:
        fields["stop_token_ids"] = params.stop_token_ids
    if params.min_new_tokens:
        fields["min_new_tokens"] = params.min_new_tokens
    if params.sampling_seed is not None:
        fields["sampling_seed"] = params.sampling_seed
    return fields
