"""One engine of a pool: its client, what it has in flight, and whether it is in rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError
from slimrl.types import Completion

OpenClient = Callable[[str], HttpEngineClient]

Key = tuple[int, int]
"""An engine's number and its life: one that came back is another one."""


class Member:
    """Its fields are changed by the rotation that it is in."""

    def __init__(self, index: int, client: HttpEngineClient) -> None:
        self.index = index
        self.client = client
        self.life = 0
        """Goes up each time the engine comes back."""
        self.lost = ""
        """Why it is out of rotation; empty while it is in."""
        self.is_given_up = False
        self.is_reviving = False
        """It is being started or given weights, which may take its time."""
        self.attempts = 0
        """To bring it back, since it last served from one publication to the next."""
        self.version = 0
        """Of the weights it was last given."""
        self.served_since_publish = False
        self.strikes = 0
        """Looks at its health in a row that failed."""
        self.tasks: set[asyncio.Task[Completion]] = set()
        """What it generates."""
        self.examination: asyncio.Task[None] | None = None
        self._told_cpu_s = 0.0

    def __str__(self) -> str:
        return f"engine {self.index} at {self.client.url}"

    @property
    def key(self) -> Key:
        """Which engine it is now."""
        return self.index, self.life

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.client.url

    @property
    def is_alive(self) -> bool:
        """Whether it is in rotation."""
        return not self.lost

    @property
    def in_flight(self) -> int:
        """Requests that it works on."""
        return len(self.tasks)

    def revive(self, client: HttpEngineClient, version: int) -> None:
        """It is back, at a client's address, with a version of the weights."""
        self.client, self.version = client, version
        self.life += 1
        self.lost = ""
        self._told_cpu_s = 0.0

    async def model_cpu_s(self) -> float | None:
        """CPU seconds of its model since the last call; None where it does not tell."""
        try:
            states = (await self.client.server_info()).get("internal_states") or [{}]
        except EngineError:  # whoever generates on it finds out
            return None
        total = states[0].get("model_cpu_s")
        if total is None:
            return None
        spent, self._told_cpu_s = float(total) - self._told_cpu_s, float(total)
        return spent
