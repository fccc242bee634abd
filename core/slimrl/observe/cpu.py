"""CPU seconds and memory of a run's processes, by what they do."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

# What stands in a process's title or command line, and what it is then; the first match counts.
ROLES = (
    ("ray::TrainerActor", "trainer"),
    ("ray::FollowerActor", "trainer"),
    ("ray::ManagerActor", "manager"),
    ("slimrl.engines.embedded", "engine"),
    ("slimrl.scoring", "rewards"),
    ("ray", "ray"),
)


class ProcessMeter:
    """CPU seconds of this process and all its descendants; a process that ended keeps what was seen last."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._seen: dict[tuple[int, float], tuple[str, float]] = {}

    def cpu_seconds(self) -> dict[str, float]:
        """User and system seconds by role since the processes began."""
        for process in _tree(self._root):
            try:
                times = process.cpu_times()
                key = process.pid, process.create_time()
                self._seen[key] = _role(process, self._root), times.user + times.system
            except psutil.Error:  # it ended while we looked
                continue
        total: dict[str, float] = {}
        for role, seconds in self._seen.values():
            total[role] = total.get(role, 0.0) + seconds
        return total


def memory_by_role(root: psutil.Process) -> dict[str, int]:
    """Bytes that a process and its descendants hold now; pages that several share are divided among them (PSS)."""
    total: dict[str, int] = {}
    try:
        for process in _tree(root):
            try:
                role, size = _role(process, root), process.memory_full_info().pss
            except psutil.Error:
                continue
            total[role] = total.get(role, 0) + size
    except psutil.NoSuchProcess:  # it is over
        pass
    return total


def _tree(root: psutil.Process) -> Sequence[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _role(process: psutil.Process, root: psutil.Process) -> str:
    if process == root:
        return "driver"
    # a Ray worker shows its actor's class as its whole command line
    command = " ".join(process.cmdline())
    return next((role for text, role in ROLES if text in command), "other")
