"""What every way to replace weights has in common: the engines stand still, take them together, then go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Literal

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError, EngineUnreachableError

RECONNECT_S: Final = 3.0
"""How long an engine that cannot be reached is tried again: others wait for it."""

UpdatePause = Literal["retract", "in_place"]
"""What becomes of the cache of requests in flight: computed again under the new weights, or kept as it is."""

Call = Callable[[HttpEngineClient], Awaitable[None]]


class Update:
    """One version of the weights on its way to several engines; one that fails is left behind."""

    def __init__(self, engines: Mapping[int, HttpEngineClient], version: int) -> None:
        self._version = version
        self._engines = dict(engines)
        self.failed: dict[int, EngineError] = {}
        """By number, the engines that were left behind."""

    async def each(self, call: Call) -> None:
        """Call every engine at once; raises what went wrong when none is left."""
        numbers, engines = list(self._engines), list(self._engines.values())
        ends = await asyncio.gather(*(self._call(call, engine) for engine in engines))
        self.failed |= {number: end for number, end in zip(numbers, ends, strict=True) if end is not None}
        self._engines = {number: engine for number, engine in self._engines.items() if number not in self.failed}
        if not self._engines:
            raise _together(list(self.failed.values()))

    async def _call(self, call: Call, engine: HttpEngineClient) -> EngineError | None:
        try:
            await call(engine)
        except (EngineError, OSError) as error:
            kind = type(error) if isinstance(error, EngineError) else EngineError
            failure = kind(f"weight version {self._version} did not reach the engine at {engine.url}: {error}")
            failure.__cause__ = error
            return failure
        return None


@contextlib.asynccontextmanager
async def paused_engines(
    urls: Mapping[int, str], version: int, retry_s: float, timeout_s: float, pause: UpdatePause = "retract"
) -> AsyncIterator[Update]:
    """Several engines that are paused until the block ends.

    Requests in flight wait. With `retract` caches are empty then, so that requests compute theirs again under the new
    weights; with `in_place` they keep what the old weights computed. An engine that fails is left behind,
    in `Update.failed`; when all did it is an EngineError that names them and the version, an EngineUnreachableError if
    none could be reached. `retry_s` bounds the retries of one call, `timeout_s` the call.
    """
    async with contextlib.AsyncExitStack() as stack:
        clients = {number: _client(url, retry_s, timeout_s) for number, url in urls.items()}
        for client in clients.values():
            stack.push_async_exit(client)
        update = Update(clients, version)
        await update.each(lambda engine: engine.pause(pause))
        paused = [client for number, client in clients.items() if number not in update.failed]
        try:
            if pause == "retract":
                await update.each(lambda engine: engine.flush_cache())  # prefixes that the old weights computed
            yield update
        except BaseException:
            # the first error is the one to tell
            await asyncio.gather(*(client.resume() for client in paused), return_exceptions=True)
            raise
        # One that was left behind may have some of the weights: it stands still until it is given all of them.
        await update.each(lambda engine: engine.resume())


def _client(url: str, retry_s: float, timeout_s: float) -> HttpEngineClient:
    return HttpEngineClient(url, retry_s=retry_s, reconnect_s=min(retry_s, RECONNECT_S), control_timeout_s=timeout_s)


def _together(failures: list[EngineError]) -> EngineError:
    refused = [failure for failure in failures if not isinstance(failure, EngineUnreachableError)]
    if len(failures) == 1:
        return failures[0]
    kind = EngineError if refused else EngineUnreachableError
    return kind("; ".join(map(str, refused or failures)))
