"""One call on its way through a worker, and the future of its scores."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from slimrl.scoring.outcome import failed
from slimrl.types import Score


@dataclass(eq=False)
class Request:
    """A call that was or will be sent to a worker."""

    id: int
    frames: bytes
    """The call as it goes over the socket."""
    count: int
    """How many samples are in it."""
    timeout_s: float
    scores: asyncio.Future[list[Score]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    since: float = 0.0
    """When its time began, on the loop's clock."""
    interrupted: int = 0
    """How often a worker ended under it and nobody knows why."""

    def answer(self, scores: list[Score]) -> None:
        """The worker's answer; nothing where the caller has left."""
        if not self.scores.done():
            self.scores.set_result(scores)

    def fail(self, reason: str) -> None:
        """An error outcome for every sample."""
        self.answer([failed(reason)] * self.count)

    def expire(self, seconds: float, because: str = "") -> None:
        """A timeout for every sample."""
        reason = f"no result within {self.timeout_s:g} s{because}"
        self.answer([Score(status="timeout", reason=reason, seconds=seconds)] * self.count)
