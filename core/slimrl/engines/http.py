"""JSON over HTTP to one engine: which answers are final, what is tried again, and for how long."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from slimrl.errors import EngineError, EngineFailingError, EngineUnreachableError

logger = logging.getLogger(__name__)

Json = Any
"""A decoded JSON value of a server; whoever reads it checks its shape."""

_LONGEST_WAIT_S = 5.0
_JSON = {"content-type": "application/json"}


class EngineHttp:
    """One pool of connections to one engine. It belongs to the event loop of its first request."""

    def __init__(self, url: str, *, retry_s: float, reconnect_s: float | None = None) -> None:
        self.url = url.rstrip("/")
        self._retry_s = retry_s
        self._reconnect_s = retry_s if reconnect_s is None else reconnect_s
        self._urls: dict[str, httpx.URL] = {}  # parsing one costs 8% of a request
        # max_connections=None would mean aiohttp's own limit of 100; 0 is none: whoever calls bounds the requests.
        # keepalive_expiry stays below uvicorn's 5 s, so that a connection is not reused while the server closes it.
        limits = httpx.Limits(max_connections=0, keepalive_expiry=4.0)
        self._client = httpx.AsyncClient(
            # trust_env: a proxy of the environment must not come between this machine and its own engine
            transport=AiohttpTransport(verify=False, trust_env=False, limits=limits),
            timeout=httpx.Timeout(None, connect=10.0),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float,
        retry: bool = True,
        next_body: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> httpx.Response:
        """The response with status 200 to one request; `next_body` makes another body for a retry, from its number.

        An answer 4xx is final. 5xx and a failed connection are tried again with growing, jittered waits for
        `retry_s` and `reconnect_s` from the first failure on. Nothing goes on longer than `timeout_s`. Every end but
        200 is an EngineError that names the engine, the path and the reason: EngineFailingError after 5xx,
        EngineUnreachableError after a failed connection.
        """
        if path not in self._urls:
            self._urls[path] = httpx.URL(self.url + path)
        first_failure: float | None = None
        attempt = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    failure = None
                    try:
                        # httpx would take ten times as long to encode a prompt
                        content = None if body is None else msgspec.json.encode(body)
                        response = await self._client.request(
                            method, self._urls[path], content=content, headers=_JSON if content else None
                        )
                        if response.status_code == 200:
                            return response
                        reason = f"HTTP {response.status_code}: {_message_of(response)}"
                        if response.status_code < 500:
                            raise EngineError(f"engine {self.url} refused {method} {path} with {reason}")
                    except (httpx.TransportError, aiohttp.ClientError) as error:
                        failure, reason = error, f"{type(error).__name__}: {error}"
                    now = time.monotonic()
                    first_failure = first_failure or now
                    attempt += 1
                    wait_s = min(0.1 * 2**attempt, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
                    retry_s = self._retry_s if failure is None else self._reconnect_s
                    if not retry or now + wait_s - first_failure > retry_s:
                        tried = f" after {attempt} attempts in {now - first_failure:.0f} s" if retry else ""
                        kind = EngineFailingError if failure is None else EngineUnreachableError
                        raise kind(f"engine {self.url} failed {method} {path}{tried}: {reason}") from failure
                    logger.warning("engine %s: %s %s: %s; again in %.1f s", self.url, method, path, reason, wait_s)
                    await asyncio.sleep(wait_s)
                    if next_body is not None:
                        body = next_body(attempt)
        except TimeoutError as error:
            raise EngineError(f"engine {self.url} did not finish {method} {path} within {timeout_s:.0f} s") from error


def decode(response: httpx.Response) -> Json:
    """The JSON value of a response; EngineError when it is something else."""
    try:
        return response.json()
    except ValueError as error:
        raise EngineError(f"{response.url} answered what is not JSON: {response.text[:200]}") from error


def _message_of(response: httpx.Response) -> str:
    """What the server says went wrong, out of the shapes that SGLang and FastAPI use."""
    try:
        reply = response.json()
    except ValueError:
        return response.text.strip()[:500] or "no message"
    found = reply
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return str(found)
