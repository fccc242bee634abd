"""Seconds by metric name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Timer:
    """Adds up the time spent under each name; waits for a GPU so that work is counted where it was started."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds."""
        self.cpu_seconds: dict[str, float] = {}
        """CPU seconds of all the process's threads."""
        self._device = device

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block of code."""
        started, cpu_started = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu_started
