"""CPU seconds of a run's processes, for the split between the model's arithmetic and everything else."""

from __future__ import annotations

import psutil


class CpuMeter:
    """CPU seconds of this process and all its descendants; a process that ended keeps what was seen last."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}

    def seconds(self) -> float:
        """User and system seconds of the whole process tree since its processes began."""
        root = psutil.Process()
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:  # it ended while we looked
                continue
        return sum(self._seen.values())
