"""The client of `remote_rm`: JSON over HTTP to one reward model, with retries, a limit and batches."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final
from weakref import WeakKeyDictionary

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from slimrl import RewardError
from slimrl_rewards.remote_batch import Batches

logger = logging.getLogger(__name__)

Json = Any
"""A JSON value; the scorer checks the shape of what a server answered."""

MAX_WAIT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 1 << 20
"""Of one sample."""
CONNECT_TIMEOUT_S: Final = 10.0
QUIET_S: Final = 5.0
"""Between two warnings of a failure."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Where a server is and how it is asked."""

    address: str
    """The URL without what must not be shown."""
    query: str = ""
    credentials: tuple[str, str] | None = None
    secrets: tuple[str, ...] = ()
    """What no message may repeat."""
    timeout_s: float
    """Of one sample: waiting for its turn, the request, repetitions and the waits between them."""
    concurrency: int
    retries: int
    backoff_s: float
    batch_size: int
    linger_s: float


class RemoteJudge:
    """Asks one server for scores. Its connections belong to the event loop that asks, and end with it."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = WeakKeyDictionary()

    async def ask(self, sample: Mapping[str, Json]) -> Json:
        """What the server answered for one sample; RewardError with the reason for every other end."""
        loop = asyncio.get_running_loop()
        connections = self._by_loop.get(loop)
        if connections is None:
            connections = self._by_loop[loop] = _Connections(self._settings)
        limit_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await connections.ask(sample)
        except TimeoutError:
            last = connections.last_failure
            raise RewardError(
                f"{self._settings.address} gave no answer within {limit_s:g} s"
                + (f"; its last failure: {last}" if last else "")
            ) from None


class _Refused(Exception):
    """A try that failed and may be repeated, after `wait_s` where the server says so."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Connections:
    """The pool of connections of one event loop."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self.last_failure = ""
        self._quiet_until = 0.0
        limits = httpx.Limits(max_connections=settings.concurrency, keepalive_expiry=4.0)
        self._client = httpx.AsyncClient(
            transport=_WithQuery(AiohttpTransport(trust_env=False, limits=limits), settings.query),
            auth=settings.credentials,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            headers={"content-type": "application/json", "accept": "application/json"},
            trust_env=False,
        )
        self._places = asyncio.Semaphore(settings.concurrency)
        self._batches = Batches(self._ask_many, settings.batch_size, settings.linger_s)
        # The loop cancels its tasks when it ends, and this one then closes the connections.
        self._keeper = asyncio.create_task(self._keep())

    async def ask(self, sample: Mapping[str, Json]) -> Json:
        if self._settings.batch_size == 1:
            return await self._post(_encoded(sample), MAX_ANSWER_BYTES)
        return await self._batches.ask(_encoded(sample))

    async def _ask_many(self, samples: Sequence[bytes]) -> list[Json]:
        answer = await self._post(b"[" + b",".join(samples) + b"]", MAX_ANSWER_BYTES * len(samples))
        if not isinstance(answer, list) or len(answer) != len(samples):
            got = f"a list of {len(answer)}" if isinstance(answer, list) else type(answer).__name__
            raise RewardError(f"{self._settings.address} answered {got} to a batch of {len(samples)} samples")
        return answer

    async def _post(self, body: bytes, limit_bytes: int) -> Json:
        """The decoded answer to one request, repeated while the failure may pass."""
        settings, started = self._settings, time.monotonic()
        for attempt in range(settings.retries + 1):
            try:
                async with self._places:
                    return await self._try(body, limit_bytes)
            except _Refused as failure:
                reason, told_s = str(failure), failure.wait_s
            self.last_failure = reason
            wait_s = min(settings.backoff_s * 2**attempt, MAX_WAIT_S) * random.uniform(0.5, 1.0)
            wait_s = max(wait_s, told_s or 0.0)
            if attempt == settings.retries:
                break
            if time.monotonic() + wait_s - started >= settings.timeout_s:
                reason += f"; it would be asked again in {wait_s:.0f} s, which is past the deadline"
                break
            self._tell(f"{reason}; again in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)
        raise RewardError(f"{settings.address} failed {attempt + 1} times, at last: {reason}")

    async def _try(self, body: bytes, limit_bytes: int) -> Json:
        address = self._settings.address
        try:
            async with self._client.stream("POST", address, content=body) as response:
                text = await _read(response, limit_bytes)
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            cause = error.__cause__ or error  # the transport calls every failed connection a timeout
            raise _Refused(self._clean(f"{type(cause).__name__}: {cause}")) from None
        if text is None:
            raise RewardError(f"{address} answered more than {limit_bytes:,} bytes")
        status = response.status_code
        if status == 429 or status >= 500:
            said = self._clean(_message(text))
            raise _Refused(f"HTTP {status}: {said}", retry_after_s(response.headers.get("retry-after")))
        if not 200 <= status < 300:
            raise RewardError(f"{address} refused with HTTP {status}: {self._clean(_message(text))}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise RewardError(f"{address} answered what is not JSON: {self._clean(_message(text))}") from None

    def _tell(self, failure: str) -> None:
        # every sample in flight meets the same outage
        now = time.monotonic()
        level = logging.WARNING if now >= self._quiet_until else logging.DEBUG
        logger.log(level, "remote_rm: %s: %s", self._settings.address, failure)
        if level == logging.WARNING:
            self._quiet_until = now + QUIET_S

    def _clean(self, text: str) -> str:
        # a server or a library may repeat the address it was reached under
        for secret in self._settings.secrets:
            text = text.replace(secret, "***")
        return text

    async def _keep(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self._client.aclose()


class _WithQuery(httpx.AsyncBaseTransport):
    """Adds the URL's query on the way out: httpx logs every address that it is given."""

    def __init__(self, inner: httpx.AsyncBaseTransport, query: str) -> None:
        self._inner = inner
        self._query = query.encode()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self._query:
            return await self._inner.handle_async_request(request)
        return await self._inner.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(query=self._query),
                headers=request.headers,
                content=request.content,
                extensions=request.extensions,
            )
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


def retry_after_s(header: str | None) -> float | None:
    """The wait that a Retry-After header asks for, given in seconds or as a date; None where it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - time.time()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _encoded(sample: Mapping[str, Json]) -> bytes:
    try:
        return json.dumps(sample, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RewardError(f"the sample cannot be written as JSON: {error}") from None


async def _read(response: httpx.Response, limit_bytes: int) -> bytes | None:
    """The body, or None when it is longer than the limit."""
    parts: list[bytes] = []
    length = 0
    async for part in response.aiter_bytes():
        length += len(part)
        if length > limit_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


def _message(text: bytes) -> str:
    return text[:2_000].decode("utf-8", "replace").strip()[:200] or "no message"
