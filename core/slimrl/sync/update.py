"""What every way to replace an engine's weights has in common: the engine stands still, then goes on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError


@contextlib.asynccontextmanager
async def paused_engine(url: str, version: int) -> AsyncIterator[HttpEngineClient]:
    """A client of an engine that is paused, with an empty cache, until the block ends.

    Requests in flight wait, and compute their cache again under the new weights. An EngineError or OSError in the
    block becomes an EngineError that names the engine and the version.
    """
    async with HttpEngineClient(url) as engine:
        try:
            await engine.pause("retract")
            await engine.flush_cache()  # cached prefixes were computed by the old weights
            yield engine
        except BaseException as error:
            with contextlib.suppress(EngineError):  # the first error is the one to tell
                await engine.resume()
            if isinstance(error, EngineError | OSError):
                raise EngineError(f"weight version {version} did not reach the engine at {url}: {error}") from error
            raise
        await engine.resume()
