"""How much of the time nothing is being generated."""

from __future__ import annotations

import time
from collections.abc import Callable

from slimrl.rollout.loop import Produce
from slimrl.types import Group


class Activity:
    """Watches the groups that are being produced; `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._since = self._changed = now()
        self._idle_s = 0.0
        self._running = 0

    def watched(self, produce: Produce) -> Produce:
        """The same, and this knows when it is at work."""

        async def produce_watched(group: Group) -> Group:
            self._note()
            self._running += 1
            try:
                return await produce(group)
            finally:
                self._note()
                self._running -= 1

        return produce_watched

    def idle_share(self) -> float:
        """The share of the time since the last call, or since the making, in which no group was being produced."""
        self._note()
        passed, idle_s = self._changed - self._since, self._idle_s
        self._since, self._idle_s = self._changed, 0.0
        return idle_s / passed if passed else 0.0

    def _note(self) -> None:
        at = self._now()
        if not self._running:
            self._idle_s += at - self._changed
        self._changed = at
