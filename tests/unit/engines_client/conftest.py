"""Servers that misbehave as they are told, and pools over them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slimrl.engines.pool import EnginePool
from slimrl.types import Completion, SamplingParams

ONE = SamplingParams(max_new_tokens=1)
Events = list[tuple[str, dict[str, Any]]]
Handler = Callable[[Request], Awaitable[Response]]
Serve = Callable[[Handler], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve every path with one handler until the test ends; returns the URL."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(handler: Handler) -> str:
        app = Starlette(routes=[Route("/{path:path}", handler, methods=["GET", "POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join()


class PoolServer:
    """Answers a request with its own number and the engine's version; `die` breaks its connections as a kill does."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.version = 0
        self.seen: list[list[int]] = []
        self.status = 200
        self.hangs = False
        self.most = 0
        """Requests in flight at once at most."""
        self._running: dict[asyncio.Event, None] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def start(self) -> str:
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", self._handle)])
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self.url

    async def die(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for site in list(runner.sites):
                await site.stop()
            await asyncio.sleep(0.005)  # connections that were accepted are there now
            server = runner.server
            assert isinstance(server, web.Server)
            for connection in server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.sleep(3600)
        if request.path == "/abort_request":
            for event in self._running:
                event.set()
        if request.path == "/generate":
            return await self._generate(await request.json())
        if request.path == "/server_info":
            return web.json_response({"version": "0.5.23", "internal_states": [{"model_cpu_s": 2.0}]})
        if request.path == "/v1/loads":
            return web.json_response({"loads": [{"num_running_reqs": self.in_flight, "num_waiting_reqs": 0}]})
        return web.json_response({})

    async def _generate(self, body: dict[str, Any]) -> web.Response:
        self.seen.append(body["input_ids"])
        if self.status != 200:
            return web.json_response({"error": {"message": "told to fail"}}, status=self.status)
        ended = asyncio.Event()
        self._running[ended] = None
        self.most = max(self.most, self.in_flight)
        try:
            async with asyncio.timeout(self.latency_s):
                await ended.wait()
            finish: dict[str, Any] = {"type": "abort", "message": "Aborted by AbortReq."}
            tokens: list[int] = []
        except TimeoutError:
            finish, tokens = {"type": "length", "length": 1}, [body["input_ids"][-1]]
        finally:
            del self._running[ended]
        meta = {
            "id": "x",
            "finish_reason": finish,
            "weight_version": str(self.version),
            "output_token_logprobs": [[-0.5, token, None] for token in tokens],
        }
        return web.json_response({"text": "", "output_ids": tokens, "meta_info": meta})


class Care:
    """Starts servers again and gives them the version that a trainer would."""

    def __init__(self, servers: list[PoolServer], *, can_restart: bool = True) -> None:
        self.servers = servers
        self.can_restart = can_restart
        self.version = 0
        self.restarts: list[int] = []
        self.sent: list[int] = []
        self.failure: Exception | None = None
        """What a restart or a sending of weights raises."""

    async def restart(self, index: int) -> str:
        self.restarts.append(index)
        if self.failure is not None:
            raise self.failure
        await self.servers[index].die()
        self.servers[index].hangs = False
        return await self.servers[index].start()

    async def send_weights(self, index: int, url: str) -> int:
        if self.failure is not None:
            raise self.failure
        assert url == self.servers[index].url
        self.servers[index].version = self.version
        self.sent.append(index)
        return self.version


class Pools:
    """Pools over servers that a test kills, and what tests of them wait for."""

    Server = PoolServer
    Care = Care

    @staticmethod
    @asynccontextmanager
    async def opened(
        servers: list[PoolServer], care: Care | None, events: Events | None = None, **settings: Any
    ) -> AsyncIterator[EnginePool]:
        """A pool over servers that were started."""

        def note(name: str, **fields: Any) -> None:
            if events is not None:
                events.append((name, fields))

        urls = [await server.start() for server in servers]
        try:
            async with EnginePool(urls, care=care, on_event=note, **settings) as pool:
                yield pool
        finally:
            for server in servers:
                await server.die()

    @staticmethod
    async def ask(pool: EnginePool, count: int) -> list[Completion]:
        """As many different requests at once; each must be answered with its own number."""
        completions = await asyncio.gather(*(pool.generate([100 + i, i], ONE) for i in range(count)))
        assert [completion.tokens for completion in completions] == [[i] for i in range(count)]
        return list(completions)

    @staticmethod
    async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, "timed out"
            await asyncio.sleep(0.005)

    @staticmethod
    def run(work: Callable[[], Awaitable[None]]) -> None:
        asyncio.run(asyncio.wait_for(work(), 30.0))


@pytest.fixture(scope="session")
def pools() -> type[Pools]:
    """Everything that tests of pools share."""
    return Pools
