"""The HTTP application: POST /generate, and errors in the contract's form."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slimrl.engines.embedded.answer import answer
from slimrl.engines.embedded.body import Job, parse_job
from slimrl.engines.embedded.control import Control
from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.inbox import UnavailableError
from slimrl.engines.embedded.params import RequestError
from slimrl.engines.embedded.request import Request
from slimrl.errors import EngineError

logger = logging.getLogger(__name__)


def make_app(engine: Engine) -> Starlette:
    """The application that serves one engine."""

    async def generate(http: HttpRequest) -> Response:
        job = parse_job(await read_json(http), engine)
        if job.is_stream:
            if len(job.requests) > 1:
                raise RequestError("stream takes one prompt and n 1; send one request for each response")
            return _stream(job, engine)
        engine.scheduler.submit(job.requests)
        await _finished(job, http, engine)
        failed = [request for request in job.requests if (request.finish_reason or {}).get("status_code") == 500]
        if failed:
            return failure(500, str((failed[0].finish_reason or {}).get("message")))
        answers = [answer(request, job, engine.text) for request in job.requests]
        return json_response(answers if job.is_list else answers[0])

    routes = [Route("/generate", generate, methods=["POST", "PUT"]), *Control(engine).routes()]
    return Starlette(
        routes=routes,
        exception_handlers={RequestError: _refused, UnavailableError: _unavailable, EngineError: _refused},
    )


async def read_json(http: HttpRequest) -> Any:
    """The request's JSON body; an empty one is an empty object."""
    body = await http.body()
    try:
        return json.loads(body) if body else {}
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def json_response(content: Any) -> Response:
    """JSON without the spaces."""
    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")


def failure(status_code: int, message: str) -> Response:
    """An error as SGLang words it."""
    return JSONResponse({"error": {"message": message}}, status_code=status_code)


async def _finished(job: Job, http: HttpRequest, engine: Engine) -> None:
    """Wait for all requests of a job; a caller who hangs up aborts them."""
    hung_up = asyncio.ensure_future(_disconnected(http))
    done = asyncio.ensure_future(asyncio.gather(*(asyncio.wrap_future(request.done) for request in job.requests)))
    try:
        await asyncio.wait((hung_up, done), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            _abandon(job.requests, engine)
            await done
    finally:
        hung_up.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _abandon(requests: list[Request], engine: Engine) -> None:
    gone = {id(request) for request in requests}
    engine.scheduler.call(lambda: engine.scheduler.abort(lambda request: id(request) in gone))


def _stream(job: Job, engine: Engine) -> Response:
    request = job.requests[0]
    loop = asyncio.get_running_loop()
    progress = asyncio.Event()

    def report() -> None:
        loop.call_soon_threadsafe(progress.set)

    request.on_progress = report
    engine.scheduler.submit(job.requests)

    async def events() -> AsyncIterator[str]:
        try:
            num_sent = -1
            is_finished = False
            while not is_finished:
                await progress.wait()
                progress.clear()
                is_finished = request.done.done()
                if is_finished and (request.finish_reason or {}).get("status_code") == 500:
                    yield _event({"error": request.finish_reason})
                elif is_finished or len(request.output_ids) > num_sent:
                    num_sent = len(request.output_ids)
                    yield _event(answer(request, job, engine.text))
            yield "data: [DONE]\n\n"
        finally:
            if not request.done.done():
                _abandon(job.requests, engine)

    return StreamingResponse(events(), media_type="text/event-stream")


def _event(content: Any) -> str:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"


async def _refused(_: HttpRequest, error: Exception) -> Response:
    return failure(400, str(error))


async def _unavailable(_: HttpRequest, error: Exception) -> Response:
    return failure(503, str(error))
