"""An engine server as a child process: started, watched, ended with everything it started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from slimrl.errors import EngineError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """What an embedded engine is started with."""

    model_path: Path
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int | None = None
    max_running_requests: int = 256
    deterministic: bool = False
    random_seed: int | None = None
    weight_version: int = 0


def embedded_command(settings: EngineSettings) -> list[str]:
    """The command line of an embedded engine that ends with the process that asks for it."""
    command = [sys.executable, "-m", "slimrl.engines.embedded"]
    command += ["--model-path", str(settings.model_path), "--device", settings.device, "--dtype", settings.dtype]
    command += ["--max-running-requests", str(settings.max_running_requests)]
    command += ["--weight-version", str(settings.weight_version), "--parent-pid", str(os.getpid())]
    if settings.num_threads is not None:
        command += ["--num-threads", str(settings.num_threads)]
    if settings.random_seed is not None:
        command += ["--random-seed", str(settings.random_seed)]
    if settings.deterministic:
        command += ["--enable-deterministic-inference"]
    return command


class EngineProcess:
    """Runs an engine's command in a process group of its own and writes its output to a log file.

    With a `port` the command must listen on it. Without, `--port 0 --port-file FILE` is added to the command and the
    port is read from the file, which lies beside the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._log_file = log_file
        self._fixed_port = self._port = port
        self._port_file = log_file.with_suffix(".port")
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        if port is None:
            self._command += ["--port", "0", "--port-file", str(self._port_file)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the engine listens, on this machine."""
        if self._port is None:
            raise EngineError("the engine has no address before it is started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The server's process id, which is also its group's."""
        if self._process is None:
            raise EngineError("the engine has no process before it is started")
        return self._process.pid

    def start(self, timeout_s: float = 300.0) -> str:
        """Start the server and return its URL once GET /health answers; else EngineError with the end of the log."""
        self._port = self._fixed_port
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._port_file.unlink(missing_ok=True)
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,  # Ctrl-C in the terminal reaches the driver alone, which ends things in order
            )
        try:
            self._await_health(timeout_s)
        except BaseException:
            self.stop(grace_s=0.0)
            raise
        logger.info("engine %s is ready (process %d, log %s)", self.url, self.pid, self._log_file)
        return self.url

    @property
    def exit_code(self) -> int | None:
        """How the server ended, below 0 the signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Raise EngineError with the end of the log if the server has ended."""
        if self.exit_code is not None:
            raise EngineError(f"the engine ended with exit code {self.exit_code}; {self._log_end()}")

    def stop(self, grace_s: float = 10.0) -> None:
        """End the server: SIGTERM, and after `grace_s` SIGKILL to all of its process group."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        # what the server itself started is in its group, and may have survived it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._port_file.unlink(missing_ok=True)

    def _await_health(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with httpx.Client(trust_env=False, timeout=30.0) as client:
            while time.monotonic() < deadline:
                self.check()
                if self._port is None and self._port_file.exists():
                    self._port = int(self._port_file.read_text())
                if self._port is not None:
                    with contextlib.suppress(httpx.TransportError):
                        if client.get(f"{self.url}/health").status_code == 200:
                            return
                time.sleep(0.1)
        raise EngineError(f"the engine did not answer within {timeout_s:.0f} s; {self._log_end()}")

    def _log_end(self) -> str:
        with self._log_file.open(encoding="utf-8", errors="replace") as log:
            lines = [line.rstrip() for line in deque(log, maxlen=20)]
        return f"the end of {self._log_file}:\n" + "\n".join(f"  {line}" for line in lines)
