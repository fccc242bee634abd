"""What the client does with a server that refuses, fails, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError
from slimrl.types import Completion, SamplingParams

Serve = Callable[[Callable[[Request], Awaitable[Response]]], str]

GREEDY = SamplingParams(max_new_tokens=2, temperature=0.0)


def answer(**meta: Any) -> JSONResponse:
    return JSONResponse(
        {
            "text": "ab",
            "output_ids": [7, 8],
            "meta_info": {
                "id": "x",
                "finish_reason": {"type": "length", "length": 2},
                "prompt_tokens": 3,
                "cached_tokens": 1,
                "weight_version": "4",
                "output_token_logprobs": [[-0.5, 7, None], [-0.25, 8, None]],
                **meta,
            },
        }
    )


def generate(url: str, *input_ids: int, request_id: str | None = None, **settings: Any) -> Completion:
    async def run() -> Completion:
        async with HttpEngineClient(url, **settings) as client:
            return await client.generate(input_ids or (1, 2, 3), GREEDY, request_id=request_id)

    return asyncio.run(run())


def test_a_completion_carries_tokens_log_probs_and_versions_of_one_length(serve: Serve) -> None:
    async def handler(request: Request) -> Response:
        return answer()

    completion = generate(serve(handler))
    assert completion.tokens == [7, 8]
    assert completion.log_probs == [-0.5, -0.25]
    assert completion.weight_versions == [4, 4]
    assert (completion.finish_reason, completion.num_prompt_tokens, completion.num_cached_tokens) == ("length", 3, 1)
    assert completion.seconds > 0


def test_the_request_asks_for_log_probs_and_names_only_what_is_set(serve: Serve) -> None:
    seen: list[Any] = []

    async def handler(request: Request) -> Response:
        seen.append(await request.json())
        return answer()

    generate(serve(handler), 5, 6)
    sampling = seen[0].pop("sampling_params")
    assert seen[0] == {"input_ids": [5, 6], "return_logprob": True}
    assert sampling["max_new_tokens"] == 2
    assert not {"stop", "stop_token_ids", "sampling_seed"} & sampling.keys()


def test_a_refusal_is_final_and_keeps_the_servers_words(serve: Serve) -> None:
    calls = []

    async def handler(request: Request) -> Response:
        calls.append(1)
        return JSONResponse({"error": {"message": "the prompt is too long"}}, status_code=400)

    with pytest.raises(EngineError, match=r"refused POST /generate with HTTP 400: the prompt is too long"):
        generate(serve(handler))
    assert len(calls) == 1


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_failing_server_is_asked_again_until_it_answers(serve: Serve, status: int) -> None:
    calls = []

    async def handler(request: Request) -> Response:
        calls.append(1)
        return Response("busy", status_code=status) if len(calls) < 3 else answer()

    assert generate(serve(handler)).tokens == [7, 8]
    assert len(calls) == 3


def test_a_retry_goes_under_another_name_that_is_no_prefix_of_a_strangers(serve: Serve) -> None:
    names: list[str] = []

    async def handler(request: Request) -> Response:
        names.append((await request.json())["rid"])
        return Response("busy", status_code=503) if len(names) == 1 else answer()

    generate(serve(handler), request_id="1")
    assert names == ["1/0", "1/1"]
    assert not "10/0".startswith("1/")


def test_a_server_that_keeps_failing_is_given_up_after_the_retry_time(serve: Serve) -> None:
    async def handler(request: Request) -> Response:
        return Response("out of memory", status_code=500)

    start = time.monotonic()
    with pytest.raises(EngineError, match=r"after \d+ attempts in \d+ s: HTTP 500: out of memory"):
        generate(serve(handler), retry_s=0.6)
    assert time.monotonic() - start < 5


def test_a_dead_server_is_an_error_that_names_its_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(EngineError, match=url):
        generate(url, retry_s=0.3)


def test_a_broken_connection_is_tried_again() -> None:
    async def run() -> int:
        calls = 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal calls
            calls += 1
            await reader.readuntil(b"\r\n\r\n")
            if calls > 1:
                body = answer().body
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with HttpEngineClient(f"http://127.0.0.1:{port}") as client:
                await client.generate([1], GREEDY)
        return calls

    assert asyncio.run(run()) == 2


def test_a_hanging_server_is_an_error_after_the_time_limit(serve: Serve) -> None:
    async def handler(request: Request) -> Response:
        await asyncio.sleep(3)
        return answer()

    with pytest.raises(EngineError, match=r"did not finish POST /generate within"):
        generate(serve(handler), generate_timeout_s=0.3)


def test_no_more_requests_are_in_flight_than_allowed(serve: Serve) -> None:
    running = most = 0

    async def handler(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return answer()

    async def run(url: str) -> None:
        async with HttpEngineClient(url, concurrency=3) as client:
            await asyncio.gather(*(client.generate([1], GREEDY) for _ in range(12)))

    asyncio.run(run(serve(handler)))
    assert most == 3


def test_more_than_a_hundred_requests_are_in_flight_at_once(serve: Serve) -> None:
    running = most = 0
    everybody = asyncio.Event()

    async def handler(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 150:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 20)
        return answer()

    async def run(url: str) -> None:
        async with HttpEngineClient(url, concurrency=150) as client:
            await asyncio.gather(*(client.generate([1], GREEDY) for _ in range(150)))

    asyncio.run(run(serve(handler)))
    assert most == 150


def test_long_answers_that_come_together_are_read_one_in_a_turn_of_the_loop(serve: Serve) -> None:
    triples = [[-0.5, token, None] for token in range(8000)]
    body = answer(output_token_logprobs=triples).body.replace(b"[7,8]", str(list(range(8000))).encode())
    everybody = asyncio.Event()
    arrived = 0

    async def handler(request: Request) -> Response:
        nonlocal arrived
        arrived += 1
        if arrived == 10:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 20)
        return Response(body)

    async def run(url: str) -> list[int]:
        turn = 0
        turns: list[int] = []

        async def generate_one(client: HttpEngineClient) -> None:
            assert len((await client.generate([1], GREEDY)).tokens) == 8000
            turns.append(turn)

        async with HttpEngineClient(url) as client:
            running = asyncio.gather(*(generate_one(client) for _ in range(10)))
            while not running.done():
                turn += 1
                await asyncio.sleep(0)
            await running
        return turns

    turns = asyncio.run(run(serve(handler)))
    assert len(set(turns)) == 10


@pytest.mark.parametrize("input_ids", [(1, 50), (-1,)])
def test_token_ids_outside_the_vocabulary_never_reach_the_server(input_ids: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"token id (50|-1) is not in the vocabulary of 50 tokens"):
        generate("http://127.0.0.1:1", *input_ids, vocab_size=50)


@pytest.mark.parametrize(
    ("meta", "complaint"),
    [
        ({"output_token_logprobs": [[-0.5, 7, None]]}, "2 tokens but the log-probs of 1"),
        ({"output_token_logprobs": [[None, 7, None], [-1.0, 8, None]]}, "not one of POST /generate"),
        ({"finish_reason": None}, "Expected `object`, got `null` - at `.*finish_reason"),
        ({"finish_reason": {"type": "tired"}}, "Invalid enum value 'tired'"),
    ],
)
def test_an_answer_that_does_not_hold_together_is_an_error(serve: Serve, meta: dict[str, Any], complaint: str) -> None:
    async def handler(request: Request) -> Response:
        return answer(**meta)

    with pytest.raises(EngineError, match=complaint):
        generate(serve(handler))


def test_a_200_that_is_not_json_is_an_error(serve: Serve) -> None:
    async def handler(request: Request) -> Response:
        return Response("<html>welcome</html>")

    with pytest.raises(EngineError, match="not JSON"):
        generate(serve(handler))


def test_an_update_that_reports_failure_with_200_is_an_error(serve: Serve) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({"success": False, "message": "no such parameter"})

    async def run(url: str) -> None:
        async with HttpEngineClient(url) as client:
            await client.update_weight_version(3)

    with pytest.raises(EngineError, match="no such parameter"):
        asyncio.run(run(serve(handler)))


def test_a_busy_cache_is_flushed_when_it_is_free_or_reported(serve: Serve) -> None:
    busy = 3

    async def handler(request: Request) -> Response:
        nonlocal busy
        busy -= 1
        return Response("Flush cache failed.\n", status_code=400 if busy >= 0 else 200)

    async def run(url: str, timeout_s: float) -> None:
        async with HttpEngineClient(url) as client:
            await client.flush_cache(timeout_s)

    url = serve(handler)
    asyncio.run(run(url, 5.0))
    busy = 10**6
    with pytest.raises(EngineError, match="end or abort the requests that run"):
        asyncio.run(run(url, 0.1))


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.5.20", [("GET", "/server_info"), ("GET", "/get_load")]),
        (
            "0.5.23",
            [
                ("GET", "/server_info"),
                ("POST", "/begin_weight_update"),
                ("POST", "/end_weight_update"),
                ("GET", "/v1/loads"),
            ],
        ),
    ],
)
def test_each_engine_version_is_spoken_to_in_its_own_way(
    serve: Serve, version: str, wanted: list[tuple[str, str]]
) -> None:
    seen: list[tuple[str, str]] = []

    async def handler(request: Request) -> Response:
        seen.append((request.method, request.url.path))
        if request.url.path == "/server_info":
            return JSONResponse({"version": version})
        if request.url.path == "/get_load":
            return JSONResponse([{"dp_rank": 0, "num_reqs": 3, "num_waiting_reqs": 1}])
        return JSONResponse({"loads": [{"num_running_reqs": 2, "num_waiting_reqs": 1}]})

    async def run(url: str) -> int:
        async with HttpEngineClient(url) as client:
            await client.begin_weight_update()
            await client.end_weight_update()
            return await client.num_requests()

    assert asyncio.run(run(serve(handler))) == 3
    assert seen == wanted


def test_an_engine_that_is_too_old_is_refused(serve: Serve) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({"version": "0.4.9"})

    async def run(url: str) -> None:
        async with HttpEngineClient(url) as client:
            await client.num_requests()

    with pytest.raises(EngineError, match=r"0\.4\.9; slimrl needs 0\.5\.15"):
        asyncio.run(run(serve(handler)))


def test_waiting_for_an_engine_ends_when_it_answers_or_the_time_is_over(serve: Serve) -> None:
    calls = 0

    async def handler(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return Response(status_code=503 if calls < 3 else 200)

    async def run(url: str, timeout_s: float) -> None:
        async with HttpEngineClient(url) as client:
            await client.wait_ready(timeout_s)

    asyncio.run(run(serve(handler), 10.0))
    with pytest.raises(EngineError, match="is not ready after 0 s"):
        asyncio.run(run("http://127.0.0.1:1", 0.3))
