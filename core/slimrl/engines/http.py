"""JSON over HTTP to one engine: which answers are final, what is tried again, and for how long."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from slimrl.errors import EngineError, EngineFailingError, EngineUnreachableError

logger = logging.getLogger(__name__)

Json = Any
"""A decoded JSON value of a server; whoever reads it checks its shape."""

_LONGEST_WAIT_S = 5.0
_JSON = {"content-type": "application/json"}
_NO_LIMIT_BUT_TO_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=30.0)  # `call` bounds the whole


class EngineHttp:
    """One pool of connections to one engine. It belongs to the event loop of its first request."""

    def __init__(self, url: str, *, retry_s: float, reconnect_s: float | None = None) -> None:
        self.url = url.rstrip("/")
        self._retry_s = retry_s
        self._reconnect_s = retry_s if reconnect_s is None else reconnect_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float,
        retry: bool = True,
        next_body: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> bytes:
        """The body of the answer with status 200; `next_body` makes another body for a retry, from its number.

        An answer 4xx is final. 5xx and a failed connection are tried again with growing, jittered waits for
        `retry_s` and `reconnect_s` from the first failure on. Nothing goes on longer than `timeout_s`. Every end but
        200 is an EngineError that names the engine, the path and the reason: EngineFailingError after 5xx,
        EngineUnreachableError after a failed connection.
        """
        first_failure: float | None = None
        attempt = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    failure = None
                    try:
                        status, answer = await self._ask(method, self.url + path, body)
                        if status == 200:
                            return answer
                        reason = f"HTTP {status}: {_message_of(answer)}"
                        if status < 500:
                            raise EngineError(f"engine {self.url} refused {method} {path} with {reason}")
                    except aiohttp.ClientError as error:
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

    async def _ask(self, method: str, url: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        # json.dumps takes ten times as long for a prompt
        content, headers = (None, None) if body is None else (msgspec.json.encode(body), _JSON)
        async with self._open().request(method, url, data=content, headers=headers, allow_redirects=False) as response:
            return response.status, await response.read()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit: whoever calls bounds the requests. Connections are kept for less than uvicorn's 5 s, so that one
            # is not used again while the server closes it. A proxy of the environment is not asked: the engine is near.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0, ssl=False)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=_NO_LIMIT_BUT_TO_CONNECT,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


def decode(answer: bytes) -> Json:
    """The JSON value of an answer; EngineError when it is something else."""
    try:
        return msgspec.json.decode(answer)
    except msgspec.DecodeError as error:
        raise EngineError(
            f"the engine's answer is not JSON ({error}): {answer[:200].decode(errors='replace')}"
        ) from error


def _message_of(answer: bytes) -> str:
    """What the server says went wrong, out of the shapes that SGLang and FastAPI use."""
    try:
        found = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return answer[:500].decode(errors="replace").strip() or "no message"
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return str(found)
