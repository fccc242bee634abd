"""Every endpoint but /generate: health, information, abort, pause and weights."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import slimrl
from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.params import RequestError, Sampling
from slimrl.engines.embedded.request import Request
from slimrl.engines.embedded.updates import WeightUpdates
from slimrl.errors import EngineError

CONTRACT_VERSION = "0.5.23"
"""The SGLang whose HTTP contract this server speaks: clients choose their dialect by /server_info's `version`."""

PAUSE_MODES = ("abort", "in_place", "retract")

T = TypeVar("T")
Handler = Callable[[HttpRequest], Awaitable[Response]]


class Control:
    """Handlers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._updates = WeightUpdates(engine)

    def routes(self) -> list[Route]:
        """Paths and methods as SGLang has them, old names included."""
        get, post = ["GET"], ["POST"]
        table: tuple[tuple[str, Handler, list[str]], ...] = (
            ("/health", self.health, get),
            ("/ready", self.health, get),
            ("/health_generate", self.health_generate, get),
            ("/model_info", self.model_info, get),
            ("/get_model_info", self.model_info, get),
            ("/server_info", self.server_info, get),
            ("/get_server_info", self.server_info, get),
            ("/v1/loads", self.loads, get),
            ("/abort_request", self.abort_request, post),
            ("/pause_generation", self.pause_generation, post),
            ("/continue_generation", self.continue_generation, post),
            ("/flush_cache", self.flush_cache, [*get, *post]),
            ("/begin_weight_update", self.begin_weight_update, post),
            ("/end_weight_update", self.end_weight_update, post),
            ("/update_weights_from_disk", self.update_weights_from_disk, post),
            ("/update_weights_from_tensor", self.update_weights_from_tensor, post),
            ("/update_weight_version", self.update_weight_version, post),
            ("/get_weights_by_name", self.get_weights_by_name, [*get, *post]),
            ("/weights_checker", self.weights_checker, post),
        )
        return [Route(path, handler, methods=methods) for path, handler, methods in table]

    async def health(self, _: HttpRequest) -> Response:
        """200 while the scheduler serves, else 503."""
        return Response(status_code=200 if self._engine.scheduler.is_alive else 503)

    async def health_generate(self, _: HttpRequest) -> Response:
        """200 once a token has been generated, by this call or, when busy or paused, by the work under way."""
        scheduler = self._engine.scheduler
        if not scheduler.is_alive:
            return Response(status_code=503)
        if not (scheduler.is_paused or scheduler.is_busy):
            probe = Request("HEALTH_CHECK", (0,), Sampling(max_new_tokens=1, temperature=0.0), seed=0)
            scheduler.submit([probe])
            await asyncio.wrap_future(probe.done)
            if (probe.finish_reason or {}).get("type") != "length":
                return Response(status_code=503)
        return Response(status_code=200)

    async def model_info(self, _: HttpRequest) -> Response:
        """What is served, and the version of its weights."""
        engine = self._engine
        path = str(engine.options.model_path)
        return JSONResponse(
            {
                "model_path": path,
                "tokenizer_path": path,
                "is_generation": True,
                "weight_version": engine.scheduler.weight_version,
                "model_type": engine.config.get("model_type"),
                "architectures": engine.config.get("architectures"),
                "vocab_size": engine.runner.vocab_size,
                "context_length": engine.max_length,
            }
        )

    async def server_info(self, _: HttpRequest) -> Response:
        """How the engine was started and what it does now."""
        engine, options = self._engine, self._engine.options
        scheduler = engine.scheduler
        return JSONResponse(
            {
                "version": CONTRACT_VERSION,
                "engine": "slimrl-embedded",
                "engine_version": slimrl.__version__,
                "model_path": str(options.model_path),
                "device": str(engine.device),
                "dtype": str(engine.dtype).removeprefix("torch."),
                "runner": type(engine.runner).__name__,
                "max_running_requests": options.max_running_requests,
                "max_queued_requests": options.max_queued_requests,
                "chunked_prefill_size": engine.prefill_size,
                "enable_deterministic_inference": options.deterministic,
                "random_seed": options.random_seed,
                "weight_version": scheduler.weight_version,
                "tp_size": 1,
                "dp_size": 1,
                "pp_size": 1,
                "context_length": engine.max_length,
                "max_total_num_tokens": engine.budget,
                "max_req_input_len": min(engine.max_length, engine.budget) - 1,
                "internal_states": [
                    {
                        "is_paused": scheduler.is_paused,
                        "last_gen_throughput": scheduler.tokens_per_s,
                        "model_cpu_s": scheduler.model_cpu_s,
                    }
                ],
            }
        )

    async def loads(self, _: HttpRequest) -> Response:
        """Requests running and waiting, tokens stored, tokens a second."""
        scheduler = self._engine.scheduler
        num_used = self._engine.runner.tokens_held()
        return JSONResponse(
            {
                "timestamp": time.time(),
                "version": CONTRACT_VERSION,
                "loads": [
                    {
                        "dp_rank": 0,
                        "num_running_reqs": scheduler.num_running,
                        "num_waiting_reqs": scheduler.num_waiting,
                        "num_total_reqs": scheduler.num_running + scheduler.num_waiting,
                        "num_used_tokens": num_used,
                        "max_total_num_tokens": self._engine.budget,
                        "token_usage": num_used / self._engine.budget,
                        "gen_throughput": scheduler.tokens_per_s if scheduler.num_running else 0.0,
                    }
                ],
            }
        )

    async def abort_request(self, http: HttpRequest) -> Response:
        """Finish requests whose id begins with `rid`, or all, with what they have; fine when there are none."""
        body = await _body(http)
        prefix, all_ = _optional(body, "rid", str), _optional(body, "abort_all", bool)
        if not prefix and not all_:
            raise RequestError("send 'rid' or 'abort_all'")
        await self._on_scheduler(
            lambda: self._engine.scheduler.abort(
                lambda request: bool(all_) or request.request_id.startswith(prefix or "")
            )
        )
        return Response(status_code=200)

    async def pause_generation(self, http: HttpRequest) -> Response:
        """Stop computing; `mode` says what becomes of requests in flight."""
        mode = (await _body(http)).get("mode", "abort")
        if mode not in PAUSE_MODES:
            raise RequestError(f"unknown mode {mode!r}; there are: {', '.join(PAUSE_MODES)}")
        await self._on_scheduler(lambda: self._engine.scheduler.pause(mode))
        return JSONResponse({"status": "ok", "message": "Generation paused successfully."})

    async def continue_generation(self, _: HttpRequest) -> Response:
        """Go on after a pause."""
        await self._on_scheduler(self._engine.scheduler.resume)
        return JSONResponse({"status": "ok", "message": "Generation continued successfully."})

    async def flush_cache(self, _: HttpRequest) -> Response:
        """Forget stored prompts; 400 while a request is in the engine, but for those that wait out a pause."""

        def flush() -> bool:
            scheduler = self._engine.scheduler
            if scheduler.num_running or (scheduler.is_busy and not scheduler.is_paused):
                return False
            self._engine.runner.forget()
            return True

        if await self._on_scheduler(flush):
            return Response("Cache flushed.\n", status_code=200)
        return Response("Requests are running or waiting; the cache was not flushed.\n", status_code=400)

    async def begin_weight_update(self, _: HttpRequest) -> Response:
        """Open an update by tensors."""
        return await self._updated(self._updates.begin)

    async def end_weight_update(self, _: HttpRequest) -> Response:
        """Close an update by tensors."""
        return await self._updated(self._updates.end)

    async def update_weights_from_disk(self, http: HttpRequest) -> Response:
        """All weights from a checkpoint folder on this machine."""
        body = await _body(http)
        path, version = _required(body, "model_path", str), _optional(body, "weight_version", str)
        abort_all = _optional(body, "abort_all_requests", bool)

        def update() -> None:
            if abort_all:
                self._engine.scheduler.abort(lambda request: True)
            self._updates.from_disk(Path(path), version)

        return await self._updated(update)

    async def update_weights_from_tensor(self, http: HttpRequest) -> Response:
        """One bucket of tensors from shared memory."""
        body = await _body(http)
        texts = _required(body, "serialized_named_tensors", list)
        version = _optional(body, "weight_version", str)
        return await self._updated(lambda: self._updates.from_buckets(texts, body.get("load_format"), version))

    async def update_weight_version(self, http: HttpRequest) -> Response:
        """Name the weights as they are."""
        body = await _body(http)
        version, abort_all = _required(body, "new_version", str), _optional(body, "abort_all_requests", bool)

        def update() -> None:
            if abort_all:
                self._engine.scheduler.abort(lambda request: True)
            self._updates.set_version(version)

        return await self._updated(update)

    async def get_weights_by_name(self, http: HttpRequest) -> Response:
        """The first rows of one tensor."""
        body = {**http.query_params, **await _body(http)}
        name, count = _required(body, "name", str), int(body.get("truncate_size", 100))
        return JSONResponse(await self._on_scheduler(lambda: self._updates.head_of(name, count)))

    async def weights_checker(self, http: HttpRequest) -> Response:
        """Checksums of the weights, or whether they are what they were."""
        action = _required(await _body(http), "action", str)
        return await self._updated(lambda: self._updates.checker(action))

    async def _updated(self, action: Callable[[], dict[str, Any] | None]) -> Response:
        """{success, message} and what the action returns; 400 when it refuses."""
        try:
            found = await self._on_scheduler(action)
        except EngineError as error:
            return JSONResponse({"success": False, "message": str(error)}, status_code=400)
        return JSONResponse({"success": True, "message": "Succeeded.", **(found or {})})

    async def _on_scheduler(self, action: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._engine.scheduler.call(action))


async def _body(http: HttpRequest) -> Mapping[str, Any]:
    content = await http.body()
    try:
        found = json.loads(content) if content else {}
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestError("the body is not a JSON object")
    return found


def _required(body: Mapping[str, Any], name: str, kind: type[T]) -> T:
    found = _optional(body, name, kind)
    if found is None:
        raise RequestError(f"{name!r} is missing")
    return found


def _optional(body: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    found = body.get(name)
    if found is not None and not isinstance(found, kind):
        raise RequestError(f"{name!r} must be a {kind.__name__}, got {found!r}")
    return found
