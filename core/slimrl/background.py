"""Work beside the run, in a thread: one piece at a time, and no error is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work at a time; what it raises comes out of `is_done` or `finish`, once."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._running: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; what was begun before must have been finished."""
        assert self._running is None, "finished before the next"
        self._running = self._pool.submit(work)

    def is_done(self) -> bool:
        """Whether nothing is running; raises what the work raised."""
        if self._running is not None and not self._running.done():
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """Wait for the end; raises what the work raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
