"""A pool of engines: who gets which request, how many at once, and what becomes of one that is refused or given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slimrl.engines.prefixes import BLOCK
from slimrl.errors import EngineError
from slimrl.types import SamplingParams

ONE = SamplingParams(max_new_tokens=1)


def test_requests_are_shared_out_among_engines(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.1) for _ in range(3)]
        async with pools.opened(servers, None) as pool:
            await pools.ask(pool, 30)
            assert [len(server.seen) for server in servers] == [10, 10, 10]

    pools.run(work)


def test_samples_of_one_prompt_go_to_one_engine_as_long_as_the_load_allows(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=0.1), pools.Server(latency_s=0.1)]
        async with pools.opened(servers, None) as pool:
            prompts = [[prompt] * 10 for prompt in range(1, 5)]
            await asyncio.gather(*(pool.generate(prompt, ONE) for prompt in prompts for _ in range(8)))
            for prompt in prompts:
                assert sorted(server.seen.count(prompt) for server in servers) == [0, 8]
            assert [len(server.seen) for server in servers] == [16, 16]
            for server in servers:
                server.seen.clear()
            await asyncio.gather(*(pool.generate([9], ONE) for _ in range(40)))
            assert min(len(server.seen) for server in servers) >= 10

    pools.run(work)


def test_a_later_turn_goes_to_the_engine_that_holds_the_earlier_ones(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(), pools.Server()]
        async with pools.opened(servers, None) as pool:
            first = [1] * (2 * BLOCK + 5)
            await pool.generate([7], ONE)  # so that the first engine is not the only one with a history
            await pool.generate(first, ONE)
            home = next(server for server in servers if first in server.seen)
            later = [*first, 5, *[3] * BLOCK]
            home.latency_s = 0.2
            busy = asyncio.create_task(pool.generate([*first, 8], ONE))
            await pools.until(lambda: home.in_flight == 1)
            await pool.generate(later, ONE)
            await busy
            assert later in home.seen

    pools.run(work)


def test_no_engine_has_more_requests_than_allowed_and_what_waits_is_ended_with_the_rest(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(latency_s=5.0), pools.Server(latency_s=5.0)]
        async with pools.opened(servers, None, concurrency=3) as pool:
            tasks = [asyncio.create_task(pool.generate([i], ONE)) for i in range(10)]
            await pools.until(lambda: sum(server.in_flight for server in servers) == 6)
            assert await pool.num_requests() == 6
            await pool.abort_all()
            completions = await asyncio.gather(*tasks)
            assert {completion.finish_reason for completion in completions} == {"abort"}
            assert [server.most for server in servers] == [3, 3]
            for server in servers:
                server.latency_s = 0.01
            await pools.ask(pool, 20)
            assert [server.most for server in servers] == [3, 3]

    pools.run(work)


def test_a_refusal_is_final_and_a_failing_engine_hands_its_request_on(pools: Any) -> None:
    async def work() -> None:
        servers = [pools.Server(), pools.Server()]
        async with pools.opened(servers, pools.Care(servers)) as pool:
            for server in servers:
                server.status = 400
            with pytest.raises(EngineError, match="refused POST /generate with HTTP 400: told to fail"):
                await pool.generate([1], ONE)
            assert sum(len(server.seen) for server in servers) == 1
            for member in pool._rotation.members:
                member.client._http._retry_s = 0.1
            servers[0].status, servers[1].status = 500, 200
            await pools.ask(pool, 6)
            servers[1].status = 500
            with pytest.raises(EngineError, match="HTTP 500: told to fail"):
                await pool.generate([1], ONE)
            assert pool.metrics()["rollout/engines_alive"] == 2.0

    pools.run(work)


def test_a_caller_that_is_cancelled_gives_its_place_away(pools: Any) -> None:
    async def work() -> None:
        server = pools.Server(latency_s=5.0)
        async with pools.opened([server], None, concurrency=1) as pool:
            first, second, third = (asyncio.create_task(pool.generate([i], ONE)) for i in range(3))
            await pools.until(lambda: server.in_flight == 1)
            first.cancel()
            await pools.until(lambda: len(server.seen) == 2)
            second.cancel()
            await pools.until(lambda: len(server.seen) == 3)
            third.cancel()
            found = await asyncio.gather(first, second, third, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in found)

    pools.run(work)
