"""Whether an engine serves: asked on a connection of its own, beside those that generate."""

from __future__ import annotations

from dataclasses import dataclass

from slimrl.engines.http import EngineHttp
from slimrl.errors import EngineError


@dataclass(frozen=True)
class HealthSettings:
    """How engines are watched while they have requests."""

    interval_s: float = 30.0
    """From one look to the next."""
    timeout_s: float = 30.0
    """How long the answer may take."""
    strikes: int = 2
    """Looks in a row without an answer after which an engine counts as dead: a busy one may miss one."""


async def why_down(url: str, timeout_s: float) -> str:
    """What is wrong with an engine, by GET /health; nothing when it serves."""
    http = EngineHttp(url, retry_s=0.0)
    try:
        await http.call("GET", "/health", timeout_s=timeout_s, retry=False)
    except EngineError as error:
        return str(error)
    finally:
        await http.close()
    return ""
