"""The embedded engines of a run: server processes of one kind, started together and each anew when it died."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command

logger = logging.getLogger(__name__)


class EngineProcesses:
    """Keeps several engine servers; the log of one is `engine.log`, of several `engine-NUMBER.log`."""

    def __init__(self, settings: EngineSettings, num_engines: int, logs: Path) -> None:
        names = ["engine.log"] if num_engines == 1 else [f"engine-{number}.log" for number in range(num_engines)]
        self._processes = [EngineProcess(embedded_command(settings), logs / name) for name in names]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> list[str]:
        """Start all; returns their URLs once they answer."""
        with ThreadPoolExecutor(len(self._processes)) as threads:
            return list(threads.map(EngineProcess.start, self._processes))

    def restart(self, number: int) -> str:
        """Start one anew, whatever has become of it; returns its URL once it answers."""
        process = self._processes[number]
        logger.warning("engine %d is started again; its exit code was %s", number, process.exit_code)
        process.stop(grace_s=0.0)
        return process.start()

    def stop(self) -> None:
        """End all."""
        with ThreadPoolExecutor(len(self._processes)) as threads:
            list(threads.map(EngineProcess.stop, self._processes))
