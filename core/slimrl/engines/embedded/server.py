"""The server process: loads the model, listens, says where, and ends with its parent."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from slimrl.engines.embedded.app import make_app
from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.options import ServerOptions, parse_args
from slimrl.errors import SlimrlError

logger = logging.getLogger(__name__)

_GRACE_S = 5
"""How long answers under way may take after a signal to stop."""


def main(argv: Sequence[str], prog: str) -> int:
    """Serve until SIGTERM, SIGINT or the parent's end; returns the exit status."""
    options = parse_args(argv, prog)
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    if options.parent_pid is not None:
        _end_with(options.parent_pid)
    try:
        listener = _listen(options.host, options.port)
        engine = Engine(options.engine)
    except (SlimrlError, OSError) as error:
        logger.error("%s", error)
        return 2
    try:
        _Server(engine, options, listener).serve_until_stopped()
    finally:
        engine.close()
        if options.port_file is not None:
            options.port_file.unlink(missing_ok=True)
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server; on a signal it ends generation first, so that callers get what they have."""

    def __init__(self, engine: Engine, options: ServerOptions, listener: socket.socket) -> None:
        config = uvicorn.Config(
            make_app(engine),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=3600,
            backlog=4096,
        )
        super().__init__(config)
        self._engine = engine
        self._options = options
        self._listener = listener

    def serve_until_stopped(self) -> None:
        """Answer requests until a signal comes."""
        # uvicorn raises the signal again once it has shut down; then it must not kill the clean-up
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        self.run(sockets=[self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        await super().startup(sockets)
        port = self._listener.getsockname()[1]
        if self._options.port_file is not None:
            _write_whole(self._options.port_file, str(port))
        logger.info("ready on http://%s:%d", self._options.host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Abort what is in flight and stop."""
        self._engine.scheduler.stop()
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port that is taken is noticed before the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, an answer's body waits 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or 0") from error
    return listener


def _write_whole(path: Path, text: str) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def _end_with(parent_pid: int) -> None:
    """Stop this process when another is gone, also when that one is killed.

    Linux could signal the parent's death itself (PR_SET_PDEATHSIG), but means the thread that started us.
    """

    def watch() -> None:
        _wait_for_end(parent_pid)
        logger.warning("process %d is gone; stopping", parent_pid)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * _GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _wait_for_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not Linux, or an old one
        while _exists(pid):
            time.sleep(1)
        return
    with os.fdopen(descriptor):
        select.select([descriptor], [], [])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
