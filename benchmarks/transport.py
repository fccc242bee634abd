"""CPU time of the client per request: httpx as it comes beside ours, at rising numbers of requests in flight.

python benchmarks/transport.py [--in-flight 16 64 256 2048] [--max-new-tokens 64]

Both send the same generations to the same canned server, which is a process of its own and answers when all of a
wave have arrived; only the client's CPU time counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import httpx
from rich.console import Console
from rich.table import Table

from slimrl.engines.client import HttpEngineClient
from slimrl.engines.completion import parse_completion
from slimrl.types import Completion, SamplingParams

PROMPT = list(range(100, 200))

Generate = Callable[[], Awaitable[Completion]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16, 64, 256, 2048])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    allow_sockets()
    table = Table("in flight", "stock httpx", "slimrl", "ratio", title="client CPU per request")
    for in_flight in options.in_flight:
        with served(serve, in_flight, options.max_new_tokens) as url:
            stock = asyncio.run(measure_stock(url, in_flight, options.max_new_tokens))
            ours = asyncio.run(measure_ours(url, in_flight, options.max_new_tokens))
        ratio = "" if stock is None else f"{stock / ours:.1f}x"
        table.add_row(
            str(in_flight), "fails" if stock is None else f"{stock * 1e3:.2f} ms", f"{ours * 1e3:.2f} ms", ratio
        )
    Console().print(table)


def allow_sockets() -> None:
    """Every request of both ends is a socket."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))


@contextmanager
def served(serve: Callable[..., None], *args: object) -> Iterator[str]:
    """The URL of a server in a process of its own; `serve` sends its port."""
    context = multiprocessing.get_context("spawn")
    ours_side, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, *args), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours_side.recv()}"
    finally:
        server.terminate()
        server.join()


async def measure_ours(url: str, in_flight: int, max_new_tokens: int) -> float:
    """CPU seconds a request of the project's client."""
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    async with HttpEngineClient(url, concurrency=in_flight) as client:
        return await cpu_seconds_each(lambda: client.generate(PROMPT, sampling), in_flight)


async def measure_stock(url: str, in_flight: int, max_new_tokens: int) -> float | None:
    """CPU seconds a request of a plain httpx client that reads the answer as ours does; None if requests fail."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    body = {
        "input_ids": PROMPT,
        "sampling_params": {"max_new_tokens": max_new_tokens, "temperature": 1.0, "top_p": 1.0, "top_k": -1},
        "return_logprob": True,
    }
    async with httpx.AsyncClient(limits=limits, timeout=60.0, trust_env=False) as client:

        async def generate() -> Completion:
            response = await client.post(f"{url}/generate", json=body)
            return parse_completion(response.content, 0.0)

        try:
            return await cpu_seconds_each(generate, in_flight)
        except httpx.TransportError:
            return None


async def cpu_seconds_each(generate: Generate, in_flight: int) -> float:
    """CPU seconds of one generation: waves of `in_flight` at once, the first of which opens the connections."""
    waves = max(1, 1024 // in_flight)
    await asyncio.gather(*(generate() for _ in range(in_flight)))
    start = time.process_time()
    for _ in range(waves):
        await asyncio.gather(*(generate() for _ in range(in_flight)))
    return (time.process_time() - start) / (waves * in_flight)


def serve(port_to: Connection, wave: int, num_tokens: int) -> None:
    """Answer POST /generate with one canned completion, when `wave` requests have arrived; runs in a process."""
    answer_bytes = canned(num_tokens)
    arrived = 0
    complete = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived, complete
        while request := await read_request(reader):
            assert request
            arrived += 1
            mine = complete
            if arrived == wave:
                arrived, complete = 0, asyncio.Event()
                mine.set()
            await mine.wait()
            writer.write(answer_bytes)
            await writer.drain()
        writer.close()

    run_server(answer, port_to)


def run_server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], to: Connection) -> None:
    """Serve for ever, on a port that is sent `to` whoever started this."""

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        to.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def canned(num_tokens: int) -> bytes:
    """The HTTP answer to a generation."""
    triples = [[-0.123456 - token / 97, 1000 + token, None] for token in range(num_tokens)]
    meta = {
        "id": "canned",
        "finish_reason": {"type": "length", "length": num_tokens},
        "prompt_tokens": len(PROMPT),
        "weight_version": "3",
        "weight_versions": [{"version": "3", "start": 0, "end": num_tokens}],
        "output_token_logprobs": triples,
    }
    text = "x" * 4 * num_tokens
    body = json.dumps({"text": text, "output_ids": [token for _, token, _ in triples], "meta_info": meta}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request, empty when the client is gone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.split(b":")[1]))


if __name__ == "__main__":
    main()
