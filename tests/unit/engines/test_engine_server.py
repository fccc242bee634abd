"""The server as a process: where it says it listens, and when it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from slimrl.engines.embedded.options import parse_args

COMMAND = [sys.executable, "-m", "slimrl.engines.embedded", "--num-threads", "1"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start a process that is killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    deadline_s = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)
    return int(path.read_text())


def test_it_says_its_port_and_ends_cleanly_in_the_middle_of_a_request(
    tiny_llama: Path, tmp_path: Path, start: Any
) -> None:
    port_file = tmp_path / "port"
    process = start(*COMMAND, "--model-path", str(tiny_llama), "--port", "0", "--port-file", str(port_file))
    url = f"http://127.0.0.1:{_port(port_file, process)}"
    assert httpx.get(f"{url}/health").status_code == 200
    body = {"input_ids": [5], "stream": True, "sampling_params": {"max_new_tokens": 500, "ignore_eos": True}}
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert process.wait(30) == 0
    assert not port_file.exists()


def test_it_ends_when_its_parent_is_killed(tiny_llama: Path, tmp_path: Path, start: Any) -> None:
    port_file, pid_file = tmp_path / "port", tmp_path / "pid"
    script = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen({COMMAND!r} + ['--model-path', {str(tiny_llama)!r}, '--port', '0',"
        f" '--port-file', {str(port_file)!r}, '--parent-pid', str(os.getpid())])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    parent = start(sys.executable, "-c", script)
    port = _port(port_file, parent)
    parent.kill()
    parent.wait()
    deadline_s = time.monotonic() + 30
    while port_file.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    # nobody is left to reap it, but it must not run
    child = Path(f"/proc/{pid_file.read_text()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z" or _ends(child)


def _ends(stat: Path) -> bool:
    time.sleep(2)
    return not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.parametrize("case", ["no config", "port taken"])
def test_what_cannot_work_is_one_line_and_status_2(case: str, tiny_llama: Path, tmp_path: Path, start: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if case == "port taken" else 0
        folder = tiny_llama if case == "port taken" else tmp_path
        process = start(*COMMAND, "--model-path", str(folder), "--port", str(port))
        message = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2
    assert ("has no config.json" if case == "no config" else "choose another --port") in message
    assert len(message.splitlines()) == 1


def test_flags_are_what_the_options_say() -> None:
    options = parse_args(
        ["--model-path", "m", "--enable-deterministic-inference", "--port", "0", "--weight-version", "4"], "serve"
    )
    assert options.host == "127.0.0.1"
    assert options.engine.deterministic
    assert options.engine.weight_version == "4"
    with pytest.raises(SystemExit):
        parse_args(["--model-path", "m", "--port", "-1"], "serve")
