"""A pool of engines of which some die, hang or come back: every request is answered once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.engines.health import HealthSettings
from slimrl.errors import EngineError, EnginesLostError
from slimrl.types import SamplingParams

ONE = SamplingParams(max_new_tokens=1)


def test_a_dead_engines_requests_move_and_it_comes_back_with_the_trainers_weights(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.3), pools.Server(latency_s=0.3)]
        care, events = pools.Care(servers), []
        async with pools.opened(servers, care, events) as pool:
            pool.published(4, {})
            care.version = 5
            asking = asyncio.create_task(pools.ask(pool, 20))
            await pools.until(lambda: servers[0].in_flight == 10)
            await servers[0].die()
            await asking
            await pools.until(lambda: any(name == "engine_back" for name, _ in events))
            assert [name for name, _ in events] == ["engine_lost", "engine_back"]
            assert events[0][1]["engine"] == 0 and events[0][1]["in_flight"] in range(1, 11)
            assert events[1][1]["weight_version"] == 5
            assert (care.restarts, care.sent) == ([0], [0])
            assert pool.metrics() == {"rollout/engines_alive": 2.0, "rollout/moved_requests": 10.0}
            assert pool.metrics()["rollout/moved_requests"] == 0.0
            completions = await pools.ask(pool, 20)
            assert [5] in [completion.weight_versions for completion in completions]
            assert await pool.model_cpu_s() == 4.0
            assert await pool.model_cpu_s() == 0.0

    pools.run(work)


def test_requests_of_a_sole_engine_wait_until_it_is_back(pools: Any) -> None:
    async def work() -> None:
        server = pools.Server(latency_s=0.2)
        care = pools.Care([server])
        async with pools.opened([server], care) as pool:
            asking = asyncio.create_task(pools.ask(pool, 5))
            await pools.until(lambda: server.in_flight == 5)
            await server.die()
            await asking
            assert care.restarts == [0]

    pools.run(work)


def test_an_engine_that_hangs_is_found_out_and_its_requests_move(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.05), pools.Server(latency_s=0.05)]
        care, events = pools.Care(servers), []
        health = HealthSettings(interval_s=0.1, timeout_s=0.1)
        async with pools.opened(servers, care, events, health=health) as pool:
            servers[1].hangs = True
            await pools.ask(pool, 10)
            await pools.until(lambda: len(events) == 2)
            assert "did not finish GET /health" in events[0][1]["reason"]
            await pools.ask(pool, 10)

    pools.run(work)


def test_an_engine_that_stands_still_for_new_weights_is_not_taken_for_dead(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.5), pools.Server()]
        events = []
        health = HealthSettings(interval_s=0.02, timeout_s=0.02)
        async with pools.opened(servers, pools.Care(servers), events, health=health) as pool:
            asking = asyncio.create_task(pool.generate([1], ONE))
            await pools.until(lambda: servers[0].in_flight == 1)
            pool.publishing()
            servers[0].hangs = True
            await asking
            assert events == []
            servers[0].hangs = False
            pool.published(1, {})
            assert {pool.url, pool.url} == {server.url for server in servers}

    pools.run(work)


def test_an_engine_that_publication_left_behind_serves_nothing_until_it_has_the_weights(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(), pools.Server()]
        care, events = pools.Care(servers, can_restart=False), []
        async with pools.opened(servers, care, events) as pool:
            care.version = servers[0].version = 3
            pool.published(3, {1: "out of memory"})
            assert pool.metrics()["rollout/engines_alive"] == 1.0
            assert all(completion.weight_versions == [3] for completion in await pools.ask(pool, 10))
            await pools.until(lambda: len(events) == 2)
            assert care.sent == [1]
            assert all(completion.weight_versions == [3] for completion in await pools.ask(pool, 10))
            pool.published(3, {1: "told late"})  # it was given these weights since
            assert pool.metrics()["rollout/engines_alive"] == 2.0

    pools.run(work)


def test_weights_that_a_publication_overtook_are_sent_again(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(), pools.Server()]
        care, events = pools.Care(servers, can_restart=False), []

        async def send_old_then_new(index: int, url: str) -> int:
            care.sent.append(index)
            if len(care.sent) == 1:
                pool.published(8, {})
                return 7
            return 8

        care.send_weights = send_old_then_new  # type: ignore[method-assign]  # a race that the clock would decide
        async with pools.opened(servers, care, events) as pool:
            pool.published(7, {0: "gone"})
            await pools.until(lambda: len(events) == 2)
            assert care.sent == [0, 0]
            assert events[1][1]["weight_version"] == 8

    pools.run(work)


def test_an_engine_that_ends_a_request_when_it_stops_does_not_pass_for_an_answer(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.3), pools.Server(latency_s=0.3)]
        async with pools.opened(servers, pools.Care(servers)) as pool:
            asking = asyncio.create_task(pools.ask(pool, 4))
            await pools.until(lambda: servers[0].in_flight == 2)
            for event in list(servers[0]._running):
                event.set()  # as a server does that got SIGTERM
            await asyncio.sleep(0)
            await servers[0].die()
            await asking

    pools.run(work)


def test_without_hope_every_request_fails_and_each_engine_is_named_with_its_reason(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=5.0), pools.Server(latency_s=5.0)]
        care, events = pools.Care(servers), []
        care.failure = EngineError("no memory to start it")
        async with pools.opened(servers, care, events) as pool:
            tasks = [asyncio.create_task(pool.generate([i], ONE)) for i in range(4)]
            await pools.until(lambda: sum(server.in_flight for server in servers) == 4)
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

    pools.run(work)


def test_engines_that_run_elsewhere_are_waited_for_and_not_for_ever(pools: Any) -> None:
    async def work() -> None:
        server = pools.Server()
        care = pools.Care([server], can_restart=False)
        async with pools.opened([server], care, patience_s=30.0) as pool:
            await server.die()
            asking = asyncio.create_task(pools.ask(pool, 3))
            await pools.until(lambda: pool.metrics()["rollout/engines_alive"] == 0.0)
            await server.start()
            await asking
            assert care.restarts == []
        async with pools.opened([server], care, patience_s=0.5) as pool:
            await server.die()
            with pytest.raises(EnginesLostError, match=rf"engine 0 at {server.url}: .*/health"):
                await pool.generate([1], ONE)

    pools.run(work)


def test_an_engine_that_dies_of_every_request_ends_neither_in_a_loop_nor_the_other_requests(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.02), pools.Server(latency_s=0.02)]
        care = pools.Care(servers)
        async with pools.opened(servers, care) as pool:

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
            await pools.ask(pool, 10)

    pools.run(work)


@settings(deadline=None, max_examples=10)
@given(
    num_engines=st.integers(2, 4),
    deaths=st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 0.1)), max_size=2),
    latencies=st.lists(st.floats(0.0, 0.05), min_size=4, max_size=4),
    concurrency=st.integers(1, 8),
)
def test_every_request_is_answered_exactly_once_whichever_engines_die(
    pools: Any, num_engines: int, deaths: list[tuple[int, float]], latencies: list[float], concurrency: int
) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=latency) for latency in latencies[:num_engines]]
        async with pools.opened(servers, pools.Care(servers), concurrency=concurrency) as pool:

            async def kill(index: int, after_s: float) -> None:
                await asyncio.sleep(after_s)
                await servers[index % num_engines].die()

            killing = [asyncio.create_task(kill(*death)) for death in deaths]
            await pools.ask(pool, 40)
            await asyncio.gather(*killing)
            await pools.ask(pool, 10)

    pools.run(work)
