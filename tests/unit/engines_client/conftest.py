"""A server that misbehaves as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
