"""What other threads ask of the scheduler's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from slimrl.errors import EngineError

_QUIET_S = 0.003
"""An idle engine begins when nothing has come for so long..."""
_LONGEST_GATHER_S = 0.05
"""...or when the first action has waited for so long."""

Action = Callable[[], None]


class UnavailableError(EngineError):
    """The engine takes nothing now; the server answers 503."""


class Inbox:
    """Actions in the order they came, and a thread that sleeps until there are some."""

    def __init__(self) -> None:
        self.is_closed = False
        self._actions: list[Action] = []
        self._wake = threading.Condition()

    def put(self, action: Action) -> None:
        """Add an action; raises UnavailableError after `close`."""
        with self._wake:
            if self.is_closed:
                raise UnavailableError("the engine is shutting down")
            self._actions.append(action)
            self._wake.notify()

    def close(self) -> None:
        """Accept nothing more and wake the thread."""
        with self._wake:
            self.is_closed = True
            self._wake.notify()

    def take(self, *, has_work: bool) -> list[Action]:
        """All actions; without work to do, sleeps until there are some or the inbox is closed."""
        with self._wake:
            if not has_work:
                while not (self._actions or self.is_closed):
                    self._wake.wait()
                self._gather()
            found = self._actions
            self._actions = []
            return found

    def _gather(self) -> None:
        """Wait for the rest of a burst: requests that begin together share most.

        A rollout's requests come one HTTP call after the other; without this the first would run a step alone.
        """
        deadline_s = time.monotonic() + _LONGEST_GATHER_S
        count = -1
        while count != len(self._actions) and not self.is_closed and time.monotonic() < deadline_s:
            count = len(self._actions)
            self._wake.wait(_QUIET_S)
