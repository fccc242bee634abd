"""Python as a tool: a program that a model wrote, run in a sandbox with limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal
from weakref import WeakKeyDictionary

from slimrl import SlimrlError, UsageError

logger = logging.getLogger(__name__)

START: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from slimrl_generators.sandbox.main import main; "
    "sys.path.pop(); main()"
)
ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    # threads count among the processes, and what they reserve counts as memory
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"),
}
MAX_OUTPUT: Final = 2**20
"""Bytes that a program may write before it is stopped."""
MAX_FILES: Final = 64 * 2**20
MAX_PROCESSES: Final = 8
END_S: Final = 2.0
"""How long the sandbox may take to end a program, and what a process that escaped may hold the output open."""

Isolation = Literal["namespaces", "limits"]


@dataclass(frozen=True)
class PythonToolOptions:
    """Options of the tool `python` of the generator `tool_use`."""

    python_tool_timeout_s: float = 10.0
    """Seconds until a program that has not ended is killed with all its processes."""
    python_tool_memory_mb: int = 512
    """Megabytes that each process of a program may reserve; an allocation beyond is a MemoryError."""
    python_tool_concurrency: int = 0
    """Programs that run at once on a machine; 0 means one for every CPU core."""
    python_tool_packages: bool = False
    """Let programs import the packages of slimrl's own environment, such as numpy and sympy."""
    python_tool_isolation: Literal["auto", "namespaces", "limits"] = "auto"
    """`namespaces`: no network, no files and no processes but its own, refused where the kernel does not give it. `limits`: only limits, which do not hold a program that wants around them. `auto`: namespaces where the kernel gives them, and limits with a warning elsewhere."""  # noqa: E501  # a field's help is one line

    def __post_init__(self) -> None:
        for name, least in (("timeout_s", 0.1), ("memory_mb", 64), ("concurrency", 0)):
            value = getattr(self, f"python_tool_{name}")
            if value < least:
                raise ValueError(f"--python-tool-{name.replace('_', '-')} {value:g} must be at least {least:g}")


@dataclass(frozen=True)
class Ran:
    """What came of a program."""

    output: str
    """What it wrote, stdout and stderr as they came, and in brackets what ended it early."""
    is_ok: bool
    """Whether it ended by itself and well."""


class PythonTool:
    """Runs programs, so many at a time."""

    def __init__(self, options: PythonToolOptions, isolation: Isolation) -> None:
        self._options = options
        self.isolation = isolation
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @classmethod
    def open(cls, options: PythonToolOptions) -> PythonTool:
        """The tool as this machine can do it; UsageError where that is less than was asked for."""
        wanted = options.python_tool_isolation
        problem = ""
        for isolation in ("namespaces", "limits"):
            if wanted not in ("auto", isolation):
                continue
            tool = cls(options, isolation)
            told = tool.problem()
            if not told:
                if problem:
                    logger.warning(
                        "no namespaces for the Python tool (%s): programs are held by limits alone, and can reach the "
                        "files and the network of this machine (docs/tools.md)",
                        problem,
                    )
                return tool
            problem = problem or told
        way_out = "; --python-tool-isolation auto takes what there is" if wanted == "namespaces" else ""
        raise UsageError(f"--python-tool-isolation {wanted}: a sandbox cannot be made here: {problem}{way_out}")

    def problem(self) -> str:
        """Why no program can be run here, found by running one; empty where it can."""
        with self._command() as words:
            ran = subprocess.run(
                words, input=b"import fractions; print(6 * 7)", capture_output=True, env=ENVIRONMENT, timeout=60
            )
        said = (ran.stdout + ran.stderr).decode(errors="replace").strip()
        return "" if ran.stdout == b"42\n" else said[-500:] or "no output"

    async def run(self, program: str) -> Ran:
        """Run a program to its end, or end it. SlimrlError where the sandbox itself fails."""
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(
            loop, asyncio.Semaphore(self._options.python_tool_concurrency or os.cpu_count() or 1)
        )
        async with slots:
            with self._command() as words:
                return await self._run(words, program)

    @contextlib.contextmanager
    def _command(self) -> Iterator[list[str]]:
        """The sandbox as a command, and a folder for the program where the sandbox makes none."""
        options = self._options
        concurrency = options.python_tool_concurrency or os.cpu_count() or 1
        with contextlib.ExitStack() as stack:
            work = ""
            if self.isolation == "limits":
                work = stack.enter_context(tempfile.TemporaryDirectory(prefix="slimrl-python-"))
            yield [
                *(sys.executable, "-I", "-S", "-X", "utf8", "-c", START),
                str(Path(__file__).parents[1]),
                str(os.getpid()),
                self.isolation,
                str(int(options.python_tool_timeout_s) + 1),
                str(options.python_tool_memory_mb * 2**20),
                str(MAX_FILES),
                # without namespaces the programs of all calls count as one user's
                str(MAX_PROCESSES if self.isolation == "namespaces" else MAX_PROCESSES * concurrency),
                work,
                sysconfig.get_path("purelib") if options.python_tool_packages else "",
            ]

    async def _run(self, words: list[str], program: str) -> Ran:
        timeout_s = self._options.python_tool_timeout_s
        output, early = bytearray(), ""
        async with _pipe() as (reader, writing_end):
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=writing_end,
                stderr=asyncio.subprocess.PIPE,
                env=ENVIRONMENT,
                start_new_session=True,
            )
            writing_end.close()
            reading = asyncio.ensure_future(_read(reader, output))
            ending = asyncio.ensure_future(_end(process, program))
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
                    if len(output) <= MAX_OUTPUT:
                        await asyncio.wait({ending})
            except TimeoutError:
                early = f"stopped: it had not ended after {timeout_s:g} s"
            finally:
                await _stop(process, reading, ending)
        if len(output) > MAX_OUTPUT:
            early = f"stopped: it wrote more than {MAX_OUTPUT} bytes"
        return _outcome(output.decode(errors="replace"), early or _how(ending))


@contextlib.asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, BinaryIO]]:
    """A pipe that is closed when it is left: with one of asyncio's own a process that escaped would keep it open."""
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as writing_end:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
        )
        try:
            yield reader, writing_end
        finally:
            transport.close()


async def _read(reader: asyncio.StreamReader, output: bytearray) -> None:
    """Keep what the program writes, up to where it is stopped."""
    while len(output) <= MAX_OUTPUT and (chunk := await reader.read(65536)):
        output += chunk


async def _end(process: asyncio.subprocess.Process, program: str) -> str:
    """Give the sandbox its program and wait for both; the sandbox's word on how it ended."""
    assert process.stdin is not None, "it is a pipe"
    assert process.stderr is not None, "it is a pipe"
    with contextlib.suppress(ConnectionError):
        process.stdin.write(program.encode(errors="replace"))
        await process.stdin.drain()
    process.stdin.close()
    said = await process.stderr.read()
    await process.wait()
    return said.decode(errors="replace").strip()


async def _stop(process: asyncio.subprocess.Process, *tasks: asyncio.Future[Any]) -> None:
    """End the sandbox if it has not ended; what still holds its pipes then is not waited for."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait(tasks, timeout=END_S)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await asyncio.wait(tasks, timeout=END_S)
    for task in tasks:
        task.cancel()


def _how(ending: asyncio.Future[str]) -> str:
    """The sandbox's word; SlimrlError where there was no sandbox."""
    said = ending.result() if ending.done() and not ending.cancelled() else ""
    if said and not said.startswith(("exit ", "signal ")):
        raise SlimrlError(f"the Python tool could not run a program: {said[-500:]}")
    return said or "killed"


def _outcome(output: str, how: str) -> Ran:
    if how == "exit 0":
        return Ran(output, True)
    if how == "exit 1" and output:  # a traceback says it all
        return Ran(output, False)
    return Ran(f"{output}{'' if output.endswith(chr(10)) or not output else chr(10)}[{how}]", False)
