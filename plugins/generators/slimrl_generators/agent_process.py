"""An agent in a process of its own, which never outlives its sample."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

from slimrl import SlimrlError

MAX_SAID: Final = 4096
"""Bytes of stderr, the last ones, that are kept for the reason of a failure."""
LAST_WORDS_S: Final = 1.0
"""How long stderr is read after the agent has ended: a process that it left behind may hold it open."""


async def run_process(words: Sequence[str], given: str, variables: Mapping[str, str]) -> None:
    """Run a command to its end with a text on its stdin; SlimrlError with its last words where it fails.

    However this is left, the process and its children are killed.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables, **_no_proxy()},
        start_new_session=True,
    )
    said = bytearray()
    reading = asyncio.ensure_future(_keep_end(process, said))
    try:
        await _give(process, given)
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        reading.cancel()
    if code != 0:
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        raise SlimrlError(f"the agent's process {how}: {last[0][:500] if last else 'it said nothing on stderr'}")


async def _give(process: asyncio.subprocess.Process, given: str) -> None:
    assert process.stdin is not None, "it is a pipe"
    with contextlib.suppress(ConnectionError):  # an agent need not read it
        process.stdin.write(given.encode())
        await process.stdin.drain()
    process.stdin.close()


async def _keep_end(process: asyncio.subprocess.Process, said: bytearray) -> None:
    assert process.stderr is not None, "it is a pipe"
    while chunk := await process.stderr.read(65536):
        said += chunk
        del said[:-MAX_SAID]


def _no_proxy() -> dict[str, str]:
    """The endpoint is on loopback, where no proxy of this machine's environment can reach it."""
    return {
        name: ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost"))) for name in ("NO_PROXY", "no_proxy")
    }
