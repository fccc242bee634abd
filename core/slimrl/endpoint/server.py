"""The endpoint's HTTP server, on loopback, in the event loop of whoever generates."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from slimrl.endpoint.fault import Fault
from slimrl.endpoint.replies import completion_json, content_chunks, models_json
from slimrl.endpoint.request import read_request
from slimrl.endpoint.session import Answer, Session
from slimrl.endpoint.template import ChatTemplate
from slimrl.protocols import EngineClient
from slimrl.types import SamplingParams

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

GRACE_S = 1
"""How long an answer that is being sent may take to end when the last session has closed."""


class Endpoint:
    """POST /v1/chat/completions and GET /v1/models; a request belongs to the session whose key it carries.

    It listens while there are sessions: the first starts the server, the last ends it, so nothing is left behind.
    Sessions of one event loop share it.
    """

    def __init__(self, template: Callable[[], ChatTemplate], model: str, *, own_sampling: bool = False) -> None:
        self._load_template = template
        self._template: ChatTemplate | None = None
        self._model = model
        self._own_sampling = own_sampling
        self._servers: dict[asyncio.AbstractEventLoop, _Server] = {}

    @contextlib.asynccontextmanager
    async def session(self, engine: EngineClient, sampling: SamplingParams) -> AsyncIterator[tuple[str, Session]]:
        """A base URL and a session; requests with its key are refused as soon as it is left."""
        if self._template is None:
            self._template = self._load_template()
        session = Session(engine, self._template, sampling, own_sampling=self._own_sampling)
        loop = asyncio.get_running_loop()
        server = self._servers.get(loop)
        if server is None:
            server = self._servers[loop] = _Server(self._model)
        server.sessions[session.key] = session
        try:
            yield server.url, session
        finally:
            del server.sessions[session.key]
            if not server.sessions:
                del self._servers[loop]
                await server.stop()


class _Server:
    """A server that runs as a task of the current event loop."""

    def __init__(self, model: str) -> None:
        self.sessions: dict[str, Session] = {}
        self._model = model
        self._created = int(time.time())
        # asyncio turns Nagle's algorithm off only where the protocol is named
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1024)  # a client may connect before the task has run
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._uvicorn = _make_uvicorn(self)
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="openai-endpoint")

    async def stop(self) -> None:
        """Answer nothing more; returns when the socket is closed."""
        self._uvicorn.should_exit = True
        await asyncio.shield(self._task)

    async def _serve(self) -> None:
        try:
            await self._uvicorn.serve(sockets=[self._listener])
        finally:
            self._listener.close()

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        from starlette.responses import JSONResponse

        try:
            self._session_of(request)
        except Fault as fault:
            return _refusal(fault)
        return JSONResponse(models_json(self._model, self._created))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        from starlette.responses import JSONResponse, StreamingResponse

        try:
            session = self._session_of(request)
            asked = read_request(_json(await request.body()))
            answer = await _unless_disconnected(request, session.answer(asked))
        except Fault as fault:
            return _refusal(fault)
        if asked.stream:
            return StreamingResponse(_stream(session, answer, self._model), media_type="text/event-stream")
        session.record(answer)
        return JSONResponse(completion_json(answer, self._model, session.token_text))

    def _session_of(self, request: Request) -> Session:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        session = self.sessions.get(key.strip()) if scheme.lower() == "bearer" else None
        if session is None:
            raise Fault("this API key belongs to no trajectory that runs", status=401, code="invalid_api_key")
        return session


async def _unless_disconnected(request: Request, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer, unless its client goes away first: then nobody generates for it any longer."""
    work = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Fault("the client has gone", status=499)
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(session: Session, answer: Answer, model: str) -> AsyncIterator[str]:
    """The events of a reply. It is recorded when all of it is sent; a client that leaves before never had it."""
    content, end = content_chunks(answer, model, session.token_text)
    for event in content:
        yield event
    session.record(answer)
    for event in end:
        yield event


def _refusal(fault: Fault) -> Response:
    from starlette.responses import JSONResponse

    # the engine's client has retried already what is worth it
    return JSONResponse(fault.body(), status_code=fault.status, headers={"x-should-retry": "false"})


def _json(body: bytes) -> object:
    try:
        read: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Fault(f"the body is not JSON: {error}") from error
    return read


def _make_uvicorn(server: _Server) -> Any:  # uvicorn is imported when it is needed; its Server, as a subclass
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _refusal(Fault(f"{request.method} {request.url.path} is not offered here", status=status))

    class InLoop(uvicorn.Server):
        """Leaves signals to the process that it is a guest of."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    app = Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
        ],
        exception_handlers={HTTPException: unknown},
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=3600,
        backlog=1024,
    )
    return InLoop(config)
