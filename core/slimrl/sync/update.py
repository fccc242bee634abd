"""What every way to replace an engine's weights has in common: the engine stands still, then goes on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError


@contextlib.asynccontextmanager
async def paused_engine(url: str, version: int, retry_s: float) -> AsyncIterator[HttpEngineClient]:
    """A client of an engine that is paused, with an empty cache, until the block ends.

    Requests in flight wait, and compute their cache again under the new weights. An EngineError or OSError, in the
    block too, becomes an EngineError that names the engine and the version. `retry_s` bounds the retries of one call.
    """
    async with HttpEngineClient(url, retry_s=retry_s) as engine:
        try:
            await engine.pause("retract")
            try:
                await engine.flush_cache()  # cached prefixes were computed by the old weights
                yield engine
            except BaseException:
                with contextlib.suppress(EngineError):  # the first error is the one to tell
                    await engine.resume()
                raise
            await engine.resume()
        except (EngineError, OSError) as error:
            raise EngineError(f"weight version {version} did not reach the engine at {url}: {error}") from error
