"""The Python tool against programs that a model may write, on purpose or not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from slimrl import SlimrlError, UsageError
from slimrl_generators import python_tool
from slimrl_generators.python_tool import PythonTool, PythonToolOptions, Ran

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
MEMORY_MB = itertools.count(200)
"""A limit no other test has: its processes are found by it."""


def has_namespaces() -> bool:
    return not PythonTool(PythonToolOptions(), "namespaces").problem()


@pytest.fixture(scope="module", params=["namespaces", "limits"])
def isolation(request: pytest.FixtureRequest) -> str:
    if request.param == "namespaces" and not has_namespaces():
        pytest.skip("this kernel gives no namespaces")
    return request.param


@pytest.fixture
def tool(isolation) -> PythonTool:
    return make(isolation, 60.0)


def make(isolation, timeout_s: float) -> PythonTool:
    return PythonTool(PythonToolOptions(timeout_s, next(MEMORY_MB)), isolation)


@pytest.fixture
def hasty(isolation) -> PythonTool:
    return make(isolation, 1.0)


@pytest.fixture
def namespaces(tool: PythonTool) -> PythonTool:
    if tool.isolation != "namespaces":
        pytest.skip("only namespaces promise it")
    return tool


def run(tool: PythonTool, program: str) -> Ran:
    return asyncio.run(tool.run(program))


def running(tool: PythonTool) -> list[str]:
    """The processes of a tool's programs."""
    mark = str(tool._options.python_tool_memory_mb * 2**20).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            found += [entry.parent.name] if mark in words and b"-I" in words else []
    return found


def left(tool: PythonTool) -> list[str]:
    """Those that still run after a moment."""
    for _ in range(40):
        if not running(tool):
            break
        time.sleep(0.05)
    return running(tool)


def test_what_a_program_writes_comes_back_in_its_order(tool: PythonTool) -> None:
    ran = run(tool, "import sys\nprint('one', flush=True)\nprint('two', file=sys.stderr, flush=True)\nprint('three')")
    assert ran == Ran("one\ntwo\nthree\n", True)


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("x = 6\nx * 7", "42\n"),
        ("print(1); 'a'", "1\n'a'\n"),
        ("print(3)", "3\n"),
        ("None", ""),
        ("x = 5", ""),
        ("", ""),
    ],
)
def test_an_expression_at_the_end_is_shown_as_in_an_interactive_session(tool, program: str, output: str) -> None:
    assert run(tool, program) == Ran(output, True)


def test_a_traceback_shows_the_programs_lines_and_none_of_ours(tool: PythonTool) -> None:
    ran = run(tool, "def half(x):\n    return x / 0\n\nhalf(3)")
    assert not ran.is_ok
    assert ran.output.startswith(
        'Traceback (most recent call last):\n  File "<python>", line 4, in <module>\n    half(3)'
    )
    assert ran.output.endswith("ZeroDivisionError: division by zero\n")
    assert "sandbox" not in ran.output


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print(", "SyntaxError"),
        ("x = '\x00'", "SyntaxError"),
        ("input()", "EOFError"),
        ("import sys; sys.exit('no')", "no\n"),
        ("import sys; sys.exit(3)", "[exit 3]"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("f = lambda: f()\nf()", "RecursionError"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("import mmap; mmap.mmap(-1, 10**10)", "Cannot allocate memory"),
        ("open('big', 'wb').write(bytes(10**8))", "File too large"),
        ("import ctypes; ctypes.string_at(0)", "[signal 11]"),
    ],
)
def test_what_goes_wrong_is_said_to_the_model(tool: PythonTool, program: str, said: str) -> None:
    ran = run(tool, program)
    assert said in ran.output
    assert not ran.is_ok


def test_output_that_is_no_text_and_a_program_that_is_none_are_survived(tool: PythonTool) -> None:
    assert run(tool, "import sys; sys.stdout.buffer.write(bytes([255, 65]))").output.startswith("\ufffdA")
    assert "'?'" in run(tool, "'\udc80'").output


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(60)",
        "while True: pass",
        "import os, time; os.close(1); os.close(2); time.sleep(60)",
        "import signal, time\nfor n in (2, 15, 24): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)",
    ],
)
@on_linux
def test_a_program_that_does_not_end_is_killed_at_the_deadline(hasty: PythonTool, program: str) -> None:
    started = time.monotonic()
    assert run(hasty, program) == Ran("[stopped: it had not ended after 1 s]", False)
    assert time.monotonic() - started < 20
    assert left(hasty) == []


@on_linux
def test_endless_output_is_stopped_and_never_all_kept(tool: PythonTool) -> None:
    ran = run(tool, "while True: print('x' * 1000)")
    assert ran.output.endswith(f"[stopped: it wrote more than {python_tool.MAX_OUTPUT} bytes]")
    assert len(ran.output) < python_tool.MAX_OUTPUT + 200_000
    assert left(tool) == []


@pytest.mark.parametrize("end", ["", "time.sleep(60)"])
@on_linux
def test_processes_that_a_program_leaves_behind_are_killed(isolation: str, end: str) -> None:
    """Also those that left its process group and session."""
    tool = make(isolation, 6.0)  # to start and to print takes a while on a busy machine
    program = (
        "import os, time\n"
        "for leave in (False, True):\n"
        "    if os.fork() == 0:\n"
        "        if leave:\n"
        "            os.setsid()\n"
        "            if os.fork(): os._exit(0)\n"
        "        time.sleep(60)\n"
        f"print('left'); {end}"
    )
    assert run(tool, program).output.startswith("left\n")
    assert left(tool) == []


@on_linux
def test_a_fork_bomb_gets_no_further_than_its_few_processes(namespaces: PythonTool) -> None:
    program = "import os, time\nn = 0\ntry:\n    while os.fork(): n += 1\n    time.sleep(9)\nexcept OSError: print(n)"
    assert run(namespaces, program) == Ran(f"{python_tool.MAX_PROCESSES - 1}\n", True)
    hasty = make("namespaces", 1.0)
    ran = run(hasty, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    assert ran.output == "[stopped: it had not ended after 1 s]"
    assert left(hasty) == []


@on_linux
def test_all_files_of_a_program_together_are_limited(namespaces: PythonTool) -> None:
    program = "for i in range(9): open(str(i), 'wb').write(bytes(10**7))"
    assert "No space left on device" in run(namespaces, program).output


def test_a_program_finds_an_empty_folder_and_leaves_nothing_in_it(tool: PythonTool) -> None:
    before = set(Path(tempfile.gettempdir()).glob("slimrl-python-*"))
    program = "import os\nprint(os.listdir())\nos.mkdir('a')\nopen('a/b', 'w').write('c')\nos.chmod('a', 0)"
    assert run(tool, program) == Ran("[]\n", True)
    assert run(tool, "import os, tempfile; os.listdir(), tempfile.gettempdir() == os.getcwd()").output == "([], True)\n"
    assert set(Path(tempfile.gettempdir()).glob("slimrl-python-*")) <= before


def test_the_environment_is_not_the_runs(tool: PythonTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    ran = run(tool, "import os; print(sorted(os.environ), open('/proc/self/status').read() if 0 else '')")
    assert ran.is_ok
    assert "HF_TOKEN" not in ran.output


@on_linux
def test_files_and_processes_of_the_machine_cannot_be_seen(namespaces: PythonTool, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("42")
    program = (
        "import os\n"
        f"for path in ({str(tmp_path / 'labels')!r}, {python_tool.__file__!r}, '/etc/passwd', '/proc/self', '/home'):\n"
        "    print(os.path.exists(path))"
    )
    assert run(namespaces, program).output == "False\n" * 5


@pytest.mark.parametrize("path", ["/usr/written", "os.__file__", "'/written'"])
@on_linux
def test_nothing_of_the_machine_can_be_changed(namespaces: PythonTool, path: str) -> None:
    where = path if "'" in path or "." in path else repr(path)
    ran = run(namespaces, f"import os\nopen({where}, 'a').write('x')")
    assert "Read-only file system" in ran.output or "Permission denied" in ran.output


@on_linux
def test_a_program_gets_no_rights_over_its_sandbox(namespaces: PythonTool) -> None:
    program = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for call in ((b'none', b'/usr', None, 4096 | 32, None), (b'tmpfs', b'/usr', b'tmpfs', 0, None)):\n"
        "    print(libc.mount(*call), ctypes.get_errno())\n"
        "print(libc.unshare(0x20000), ctypes.get_errno() in (1, 0))"
    )
    assert run(namespaces, program).output.startswith("-1 1\n-1 1\n")


def test_a_program_reaches_no_network(tool: PythonTool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ran = run(tool, f"import socket; socket.create_connection(('127.0.0.1', {port}))")
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "Error" in ran.output
    assert not ran.is_ok


def test_packages_can_be_imported_where_that_is_allowed(isolation) -> None:
    program = "import numpy; int(numpy.arange(4).sum())"
    without, with_them = (
        PythonTool(PythonToolOptions(python_tool_packages=allowed, python_tool_timeout_s=60), isolation)
        for allowed in (False, True)
    )
    assert "No module named 'numpy'" in run(without, program).output
    assert run(with_them, program) == Ran("6\n", True)


@on_linux
def test_a_cancelled_call_ends_its_program(tool: PythonTool) -> None:
    async def cancel() -> None:
        call = asyncio.ensure_future(tool.run("import os\nos.fork()\nwhile True: pass"))
        await asyncio.sleep(0.4)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    asyncio.run(cancel())
    assert left(tool) == []


@on_linux
def test_a_killed_run_leaves_no_program_behind(tool: PythonTool) -> None:
    code = (
        "import asyncio\nfrom slimrl_generators.python_tool import *\n"
        f"options = PythonToolOptions(60, {tool._options.python_tool_memory_mb})\n"
        "program = 'import os, time; os.fork(); os.fork() or os.setsid(); time.sleep(60)'\n"
        f"asyncio.run(PythonTool(options, {tool.isolation!r}).run(program))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        for _ in range(200):
            if len(running(tool)) >= 5:
                break
            time.sleep(0.05)
        process.kill()
    assert left(tool) == []


def test_no_more_programs_run_at_once_than_allowed(isolation) -> None:
    tool = PythonTool(PythonToolOptions(python_tool_concurrency=2), isolation)

    async def six() -> list[Ran]:
        program = "import time; a = time.time(); time.sleep(0.15); print(a, time.time())"
        return await asyncio.gather(*(tool.run(program) for _ in range(6)))

    spans = [tuple(map(float, ran.output.split())) for ran in asyncio.run(six())]
    assert max(sum(begin <= start < end for begin, end in spans) for start, _ in spans) <= 2


def test_a_sandbox_that_fails_is_no_output_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = PythonTool(PythonToolOptions(), "limits")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda prefix: contextlib.nullcontext("/no/such/folder"))
    with pytest.raises(SlimrlError, match=r"could not run a program: problem .*No such file"):
        run(tool, "print(1)")


def test_auto_takes_limits_with_a_warning_where_there_are_no_namespaces(monkeypatch, caplog) -> None:
    monkeypatch.setattr(PythonTool, "problem", lambda self: "EPERM" if self.isolation == "namespaces" else "")
    with caplog.at_level(logging.WARNING):
        assert PythonTool.open(PythonToolOptions()).isolation == "limits"
    assert "no namespaces for the Python tool (EPERM)" in caplog.text
    with pytest.raises(UsageError, match="--python-tool-isolation namespaces: a sandbox cannot be made here: EPERM; "):
        PythonTool.open(PythonToolOptions(python_tool_isolation="namespaces"))


@pytest.mark.parametrize("name", ["timeout_s", "memory_mb", "concurrency"])
def test_impossible_options_are_refused_by_their_flag(name: str) -> None:
    with pytest.raises(ValueError, match=f"--python-tool-{name.replace('_', '-')} -1 must be at least"):
        PythonToolOptions(**{f"python_tool_{name}": -1})


@pytest.mark.skipif(not hasattr(os, "setresuid") or os.getuid() != 0, reason="about root")
def test_a_program_is_never_root_where_it_is_alone(namespaces: PythonTool) -> None:
    assert run(namespaces, "import os; os.getuid()").output != "0\n"
