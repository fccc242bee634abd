"""A pool of engines of which some die, hang, refuse or come back: every request is answered once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.engines.health import HealthSettings
from slimrl.engines.pool import EnginePool
from slimrl.engines.prefixes import BLOCK
from slimrl.errors import EngineError, EnginesLostError
from slimrl.types import Completion, SamplingParams

ONE = SamplingParams(max_new_tokens=1)
Events = list[tuple[str, dict[str, Any]]]


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


async def ask(pool: EnginePool, count: int) -> list[Completion]:
    """As many different requests at once; each must be answered with its own number."""
    completions = await asyncio.gather(*(pool.generate([100 + i, i], ONE) for i in range(count)))
    assert [completion.tokens for completion in completions] == [[i] for i in range(count)]
    return list(completions)


async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.005)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30.0))


def test_requests_are_shared_out_among_engines() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.1) for _ in range(3)]
        async with opened(servers, None) as pool:
            await ask(pool, 30)
            assert [len(server.seen) for server in servers] == [10, 10, 10]

    run(work)


def test_samples_of_one_prompt_go_to_one_engine_as_long_as_the_load_allows() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.1), PoolServer(latency_s=0.1)]
        async with opened(servers, None) as pool:
            prompts = [[prompt] * 10 for prompt in range(1, 5)]
            await asyncio.gather(*(pool.generate(prompt, ONE) for prompt in prompts for _ in range(8)))
            for prompt in prompts:
                assert sorted(server.seen.count(prompt) for server in servers) == [0, 8]
            assert [len(server.seen) for server in servers] == [16, 16]
            for server in servers:
                server.seen.clear()
            await asyncio.gather(*(pool.generate([9], ONE) for _ in range(40)))
            assert min(len(server.seen) for server in servers) >= 10

    run(work)


def test_a_later_turn_goes_to_the_engine_that_holds_the_earlier_ones() -> None:
    async def work() -> None:
        servers = [PoolServer(), PoolServer()]
        async with opened(servers, None) as pool:
            first = [1] * (2 * BLOCK + 5)
            await pool.generate([7], ONE)  # so that the first engine is not the only one with a history
            await pool.generate(first, ONE)
            home = next(server for server in servers if first in server.seen)
            later = [*first, 5, *[3] * BLOCK]
            home.latency_s = 0.2
            busy = asyncio.create_task(pool.generate([*first, 8], ONE))
            await until(lambda: home.in_flight == 1)
            await pool.generate(later, ONE)
            await busy
            assert later in home.seen

    run(work)


def test_no_engine_has_more_requests_than_allowed_and_what_waits_is_ended_with_the_rest() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=5.0), PoolServer(latency_s=5.0)]
        async with opened(servers, None, concurrency=3) as pool:
            tasks = [asyncio.create_task(pool.generate([i], ONE)) for i in range(10)]
            await until(lambda: sum(server.in_flight for server in servers) == 6)
            assert await pool.num_requests() == 6
            await pool.abort_all()
            completions = await asyncio.gather(*tasks)
            assert {completion.finish_reason for completion in completions} == {"abort"}
            assert [server.most for server in servers] == [3, 3]
            for server in servers:
                server.latency_s = 0.01
            await ask(pool, 20)
            assert [server.most for server in servers] == [3, 3]

    run(work)


def test_a_dead_engines_requests_move_and_it_comes_back_with_the_trainers_weights() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.3), PoolServer(latency_s=0.3)]
        care, events = Care(servers), Events()
        async with opened(servers, care, events) as pool:
            pool.published(4, {})
            care.version = 5
            asking = asyncio.create_task(ask(pool, 20))
            await until(lambda: servers[0].in_flight == 10)
            await servers[0].die()
            await asking
            await until(lambda: any(name == "engine_back" for name, _ in events))
            assert [name for name, _ in events] == ["engine_lost", "engine_back"]
            assert events[0][1]["engine"] == 0 and events[0][1]["in_flight"] in range(1, 11)
            assert events[1][1]["weight_version"] == 5
            assert (care.restarts, care.sent) == ([0], [0])
            assert pool.metrics() == {"rollout/engines_alive": 2.0, "rollout/moved_requests": 10.0}
            assert pool.metrics()["rollout/moved_requests"] == 0.0
            completions = await ask(pool, 20)
            assert [5] in [completion.weight_versions for completion in completions]
            assert await pool.model_cpu_s() == 4.0
            assert await pool.model_cpu_s() == 0.0

    run(work)


def test_requests_of_a_sole_engine_wait_until_it_is_back() -> None:
    async def work() -> None:
        server = PoolServer(latency_s=0.2)
        care = Care([server])
        async with opened([server], care) as pool:
            asking = asyncio.create_task(ask(pool, 5))
            await until(lambda: server.in_flight == 5)
            await server.die()
            await asking
            assert care.restarts == [0]

    run(work)


def test_an_engine_that_hangs_is_found_out_and_its_requests_move() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.05), PoolServer(latency_s=0.05)]
        care, events = Care(servers), Events()
        health = HealthSettings(interval_s=0.1, timeout_s=0.1)
        async with opened(servers, care, events, health=health) as pool:
            servers[1].hangs = True
            await ask(pool, 10)
            await until(lambda: len(events) == 2)
            assert "did not finish GET /health" in events[0][1]["reason"]
            await ask(pool, 10)

    run(work)


def test_an_engine_that_stands_still_for_new_weights_is_not_taken_for_dead() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.5), PoolServer()]
        events = Events()
        health = HealthSettings(interval_s=0.02, timeout_s=0.02)
        async with opened(servers, Care(servers), events, health=health) as pool:
            asking = asyncio.create_task(pool.generate([1], ONE))
            await until(lambda: servers[0].in_flight == 1)
            pool.publishing()
            servers[0].hangs = True
            await asking
            assert events == []
            servers[0].hangs = False
            pool.published(1, {})
            assert {pool.url, pool.url} == {server.url for server in servers}

    run(work)


def test_an_engine_that_publication_left_behind_serves_nothing_until_it_has_the_weights() -> None:
    async def work() -> None:
        servers = [PoolServer(), PoolServer()]
        care, events = Care(servers, can_restart=False), Events()
        async with opened(servers, care, events) as pool:
            care.version = servers[0].version = 3
            pool.published(3, {1: "out of memory"})
            assert pool.metrics()["rollout/engines_alive"] == 1.0
            assert all(completion.weight_versions == [3] for completion in await ask(pool, 10))
            await until(lambda: len(events) == 2)
            assert care.sent == [1]
            assert all(completion.weight_versions == [3] for completion in await ask(pool, 10))
            pool.published(3, {1: "told late"})  # it was given these weights since
            assert pool.metrics()["rollout/engines_alive"] == 2.0

    run(work)


def test_weights_that_a_publication_overtook_are_sent_again() -> None:
    async def work() -> None:
        servers = [PoolServer(), PoolServer()]
        care, events = Care(servers, can_restart=False), Events()

        async def send_old_then_new(index: int, url: str) -> int:
            care.sent.append(index)
            if len(care.sent) == 1:
                pool.published(8, {})
                return 7
            return 8

        care.send_weights = send_old_then_new  # type: ignore[method-assign]  # a race that the clock would decide
        async with opened(servers, care, events) as pool:
            pool.published(7, {0: "gone"})
            await until(lambda: len(events) == 2)
            assert care.sent == [0, 0]
            assert events[1][1]["weight_version"] == 8

    run(work)


def test_a_refusal_is_final_and_a_failing_engine_hands_its_request_on() -> None:
    async def work() -> None:
        servers = [PoolServer(), PoolServer()]
        async with opened(servers, Care(servers)) as pool:
            for server in servers:
                server.status = 400
            with pytest.raises(EngineError, match="refused POST /generate with HTTP 400: told to fail"):
                await pool.generate([1], ONE)
            assert sum(len(server.seen) for server in servers) == 1
            for member in pool._rotation.members:
                member.client._http._retry_s = 0.1
            servers[0].status, servers[1].status = 500, 200
            await ask(pool, 6)
            servers[1].status = 500
            with pytest.raises(EngineError, match="HTTP 500: told to fail"):
                await pool.generate([1], ONE)
            assert pool.metrics()["rollout/engines_alive"] == 2.0

    run(work)


def test_an_engine_that_ends_a_request_when_it_stops_does_not_pass_for_an_answer() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.3), PoolServer(latency_s=0.3)]
        async with opened(servers, Care(servers)) as pool:
            asking = asyncio.create_task(ask(pool, 4))
            await until(lambda: servers[0].in_flight == 2)
            for event in list(servers[0]._running):
                event.set()  # as a server does that got SIGTERM
            await asyncio.sleep(0)
            await servers[0].die()
            await asking

    run(work)


def test_without_hope_every_request_fails_and_each_engine_is_named_with_its_reason() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=5.0), PoolServer(latency_s=5.0)]
        care, events = Care(servers), Events()
        care.failure = EngineError("no memory to start it")
        async with opened(servers, care, events) as pool:
            tasks = [asyncio.create_task(pool.generate([i], ONE)) for i in range(4)]
            await until(lambda: sum(server.in_flight for server in servers) == 4)
            for server in servers:
                await server.die()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(error, EnginesLostError) for error in found)
            for server, name in zip(servers, ("engine 0", "engine 1"), strict=True):
                assert f"{name} at {server.url}: no memory to start it" in str(found[0])
            assert care.restarts.count(0) == care.restarts.count(1) == 3
            assert [name for name, _ in events].count("engine_given_up") == 2
            with pytest.raises(EnginesLostError):
                await pool.generate([1], ONE)

    run(work)


def test_engines_that_run_elsewhere_are_waited_for_and_not_for_ever() -> None:
    async def work() -> None:
        server = PoolServer()
        care = Care([server], can_restart=False)
        async with opened([server], care, patience_s=30.0) as pool:
            await server.die()
            asking = asyncio.create_task(ask(pool, 3))
            await until(lambda: pool.metrics()["rollout/engines_alive"] == 0.0)
            await server.start()
            await asking
            assert care.restarts == []
        async with opened([server], care, patience_s=0.5) as pool:
            await server.die()
            with pytest.raises(EnginesLostError, match=rf"engine 0 at {server.url}: .*/health"):
                await pool.generate([1], ONE)

    run(work)


def test_an_engine_that_dies_of_every_request_ends_neither_in_a_loop_nor_the_other_requests() -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=0.02), PoolServer(latency_s=0.02)]
        care = Care(servers)
        async with opened(servers, care) as pool:

            async def poison() -> None:
                with pytest.raises(EngineError):
                    await pool.generate([666], ONE)

            poisoned = asyncio.create_task(poison())
            while not poisoned.done():
                for server in servers:
                    if server.in_flight and [666] in server.seen:
                        server.seen.clear()
                        await server.die()
                await asyncio.sleep(0.002)
            await poisoned
            await ask(pool, 10)

    run(work)


def test_a_caller_that_is_cancelled_gives_its_place_away() -> None:
    async def work() -> None:
        server = PoolServer(latency_s=5.0)
        async with opened([server], None, concurrency=1) as pool:
            first, second, third = (asyncio.create_task(pool.generate([i], ONE)) for i in range(3))
            await until(lambda: server.in_flight == 1)
            first.cancel()
            await until(lambda: len(server.seen) == 2)
            second.cancel()
            await until(lambda: len(server.seen) == 3)
            third.cancel()
            found = await asyncio.gather(first, second, third, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in found)

    run(work)


@settings(deadline=None, max_examples=10)
@given(
    num_engines=st.integers(2, 4),
    deaths=st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 0.1)), max_size=2),
    latencies=st.lists(st.floats(0.0, 0.05), min_size=4, max_size=4),
    concurrency=st.integers(1, 8),
)
def test_every_request_is_answered_exactly_once_whichever_engines_die(
    num_engines: int, deaths: list[tuple[int, float]], latencies: list[float], concurrency: int
) -> None:
    async def work() -> None:
        servers = [PoolServer(latency_s=latency) for latency in latencies[:num_engines]]
        async with opened(servers, Care(servers), concurrency=concurrency) as pool:

            async def kill(index: int, after_s: float) -> None:
                await asyncio.sleep(after_s)
                await servers[index % num_engines].die()

            killing = [asyncio.create_task(kill(*death)) for death in deaths]
            await ask(pool, 40)
            await asyncio.gather(*killing)
            await ask(pool, 10)

    run(work)
