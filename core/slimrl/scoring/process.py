"""One worker process and the socket to it.

Not a pool of the standard library, of pebble or of loky: their workers import the parent's main module (in a Ray
actor that is Ray itself), outlive a parent that was killed, and share queues behind locks that a killed worker may
hold; pebble's kill after a deadline costs the pool a restart of the process before the next task, and loky has no
deadline. These are fresh interpreters that import slimrl and the rewards alone, each with a socket of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from slimrl.errors import PluginError
from slimrl.scoring.wire import HEADER, MARK, WorkerSpec, frame
from slimrl.traits import RewardTraits


@dataclass(frozen=True)
class Made:
    """What a reward says of itself once it is made."""

    is_async: bool
    traits: RewardTraits


class WorkerProcess(asyncio.Protocol):
    """A live worker: frames go to it, frames come from it, and it can be killed at any moment."""

    def __init__(self, popen: subprocess.Popen[bytes], mark: mmap.mmap) -> None:
        self.made: Mapping[int, Made] = {}
        self.on_frame: Callable[[bytes], None] = lambda payload: None
        """Called with every reply."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called once when the process is gone or has closed its socket, unless it was killed."""
        self._popen = popen
        self._mark = mark
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._is_over = False

    @classmethod
    async def start(cls, spec: WorkerSpec, timeout_s: float) -> WorkerProcess:
        """Start one and make the rewards in it; PluginError when that fails or takes too long."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(MARK.size)
            mark = mmap.mmap(file.fileno(), MARK.size)
            process = cls(_start_interpreter(theirs.fileno(), file.fileno()), mark)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await process._introduce(ours, spec)
        except BaseException as error:
            process.kill()
            status = await process.reap()
            names = ", ".join(repr(reward.reference) for reward in spec.rewards.values())
            if isinstance(error, TimeoutError):
                raise PluginError(f"reward {names}: the worker process did not start within {timeout_s:g} s") from error
            if isinstance(error, OSError | EOFError):
                raise PluginError(f"reward {names}: the worker process {how_it_ended(status)} at its start") from error
            raise
        if "problem" in reply:
            process.kill()
            await process.reap()
            raise PluginError(reply["problem"])
        process.made = {
            int(number): Made(is_async, RewardTraits(**traits)) for number, (is_async, traits) in reply["made"].items()
        }
        return process

    async def _introduce(self, channel: socket.socket, spec: WorkerSpec) -> Any:  # Any: a JSON value
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self.on_frame = lambda payload: None if answer.done() else answer.set_result(payload)
        self.on_lost = lambda: None if answer.done() else answer.set_exception(EOFError())
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=channel)
        # The path first: what the options are made of may lie anywhere on it.
        self.send(frame(json.dumps(sys.path).encode()) + frame(pickle.dumps(spec)))
        return json.loads(await answer)

    def send(self, frames: bytes) -> None:
        """Send frames; what cannot go out at once is kept until it can."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames)

    def busy_with(self) -> int:
        """The id of the call that holds the worker's event loop right now; 0 where none does or it cannot be told."""
        (call_id,) = MARK.unpack(self._mark)
        return int(call_id)

    def kill(self) -> None:
        """End it and everything it started, now."""
        self._is_over = True
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        if self._transport is not None:
            self._transport.abort()

    async def reap(self) -> int:
        """Its exit status; follows `kill`."""
        return await asyncio.to_thread(self._popen.wait)

    def data_received(self, data: bytes) -> None:
        """From asyncio: bytes of one or more frames."""
        self._received += data
        buffer, start = self._received, 0
        while len(buffer) - start >= HEADER.size:
            (length,) = HEADER.unpack_from(buffer, start)
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[start + HEADER.size : end])
            start = end
            self.on_frame(payload)
        del buffer[:start]

    def connection_lost(self, error: Exception | None) -> None:
        """From asyncio: the socket is closed."""
        if not self._is_over:
            self._is_over = True
            self.on_lost()


def _start_interpreter(channel: int, mark: int) -> subprocess.Popen[bytes]:
    # On the loop's own thread (a millisecond): the kernel ends a worker when the thread that started it ends.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "slimrl.scoring.worker_process", str(channel), str(mark), str(os.getpid())],
        pass_fds=(channel, mark),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the run to handle; and a kill takes the reward's children too
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
