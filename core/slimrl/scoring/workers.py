"""Worker processes with a deadline: each scores one sample at a time and can be killed at any moment.

Not a pool of the standard library or of pebble: their workers import the parent's main module (in a Ray actor
that is Ray itself), outlive a parent that was killed, and share one pipe behind a lock. These are fresh
interpreters that import slimrl and the reward alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

from slimrl.errors import PluginError
from slimrl.scoring.outcome import failed
from slimrl.scoring.wire import HEADER, WorkerSpec, decode_score, frame
from slimrl.types import Sample, Score

logger = logging.getLogger(__name__)


class _Process:
    """One live worker process and the socket to it."""

    def __init__(self, popen: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.popen = popen
        self.is_async = False
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(cls) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = _start_interpreter(theirs.fileno())
        ours.setblocking(False)
        return cls(popen, *await asyncio.open_unix_connection(sock=ours))

    async def ask(self, *payloads: bytes) -> bytes:
        """Send payloads and wait for the reply; asyncio.IncompleteReadError or OSError when the process ended."""
        self._writer.writelines(frame(payload) for payload in payloads)
        await self._writer.drain()
        (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        return await self._reader.readexactly(length)

    async def kill(self) -> int:
        """End it and everything it started; returns its exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self._writer.close()
        return await asyncio.to_thread(self.popen.wait)


def _start_interpreter(fd: int) -> subprocess.Popen[bytes]:
    # On the loop's own thread (a millisecond): the kernel ends a worker when the thread that started it ends.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "slimrl.scoring.worker_process", str(fd), str(os.getpid())],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the run to handle; and a kill takes the reward's children too
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


class Worker:
    """A place for one worker process: started when needed, replaced after a deadline or a crash."""

    def __init__(self, spec: WorkerSpec, *, timeout_s: float, start_timeout_s: float) -> None:
        self._spec = spec
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._process: _Process | None = None
        self._starting: asyncio.Task[_Process] | None = None

    async def start(self) -> bool:
        """Start the process and make the reward in it; returns whether the reward is async. PluginError if it fails."""
        return (await self._ready()).is_async

    async def score(self, sample: Sample) -> Score:
        """The outcome for one sample within the deadline; never raises for what the reward did."""
        try:
            payload = pickle.dumps(sample, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # metadata may hold anything; what cannot be carried cannot be scored
            return failed(f"the sample cannot be sent to a worker: {type(error).__name__}: {error}")
        try:
            process = await self._ready()
        except PluginError as error:
            return failed(str(error))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                return decode_score(await process.ask(payload))
        except TimeoutError:
            logger.warning("reward: sample %d over its %g s; worker replaced", sample.sample_id, self._timeout_s)
            await self._replace(process)
            reason = f"no result within {self._timeout_s:g} s"
            return Score(status="timeout", reason=reason, seconds=time.perf_counter() - started)
        except (OSError, EOFError, ValueError) as error:
            ended = _how_it_ended(await self._replace(process))
            logger.warning("reward: the worker %s on sample %d and was replaced", ended, sample.sample_id)
            logger.debug("the worker's channel: %s", error)
            return failed(f"the worker process {ended} while scoring")

    async def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._starting is not None:
            self._starting.cancel()
            (started,) = await asyncio.gather(self._starting, return_exceptions=True)
            if isinstance(started, _Process):  # it was ready, but nobody had asked for it yet
                self._process = started
        if self._process is not None:
            await self._process.kill()
            self._process = None

    async def _ready(self) -> _Process:
        if self._process is None:
            if self._starting is None:
                self._starting = asyncio.create_task(self._launch())
            starting = self._starting
            try:
                self._process = await asyncio.shield(starting)
            finally:
                if starting.done():
                    self._starting = None
        return self._process

    async def _launch(self) -> _Process:
        process = await _Process.spawn()
        try:
            async with asyncio.timeout(self._start_timeout_s):
                # The path first: what the options are made of may lie anywhere on it.
                reply = json.loads(await process.ask(json.dumps(sys.path).encode(), pickle.dumps(self._spec)))
        except BaseException as error:
            status = await process.kill()
            if isinstance(error, TimeoutError):
                what = f"did not start within {self._start_timeout_s:g} s"
            elif isinstance(error, OSError | EOFError):
                what = f"{_how_it_ended(status)} at its start"
            else:
                raise
            raise PluginError(f"reward {self._spec.reference!r}: the worker process {what}") from error
        if "problem" in reply:
            await process.kill()
            raise PluginError(reply["problem"])
        process.is_async = reply["is_async"]
        return process

    async def _replace(self, process: _Process) -> int:
        self._process = None
        self._starting = asyncio.create_task(self._launch())  # the next sample finds it warm, or waits for it
        return await process.kill()


def _how_it_ended(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
