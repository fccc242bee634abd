"""A server process that starts, dies early, never answers, or will not end."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command
from slimrl.errors import EngineError

SERVER = """
    import http.server, pathlib, signal, subprocess, sys
    port_file = pathlib.Path(sys.argv[sys.argv.index("--port-file") + 1])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def log_message(self, *args):
            pass
    {extra}
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    unfinished = port_file.with_suffix(".tmp")
    unfinished.write_text(str(server.server_address[1]))
    unfinished.rename(port_file)
    server.serve_forever()
"""


def script(extra: str = "") -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(SERVER).replace("{extra}", extra)]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_server_is_started_and_ended(tmp_path: Path) -> None:
    with EngineProcess(script(), tmp_path / "logs" / "engine.log") as process:
        url = process.start(timeout_s=30.0)
        assert url == process.url
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        process.check()
        pid = process.pid
    assert not is_running(pid)
    with pytest.raises(EngineError, match="ended with exit code"):
        process.check()


def test_a_stopped_server_can_be_started_again(tmp_path: Path) -> None:
    with EngineProcess(script(), tmp_path / "engine.log") as process:
        process.start(timeout_s=30.0)
        process.stop()
        url = process.start(timeout_s=30.0)
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


def test_an_early_death_shows_the_end_of_the_log(tmp_path: Path) -> None:
    process = EngineProcess(script("raise SystemExit('no such model: /nowhere')"), tmp_path / "engine.log")
    with pytest.raises(EngineError, match=r"exit code 1; the end of .*engine\.log:\n  no such model: /nowhere"):
        process.start(timeout_s=30.0)


def test_a_server_that_never_answers_is_ended_and_reported(tmp_path: Path) -> None:
    process = EngineProcess(script("print('loading', flush=True); signal.pause()"), tmp_path / "engine.log")
    with pytest.raises(EngineError, match=r"did not answer within 2 s; .*\n  loading"):
        process.start(timeout_s=2.0)
    assert not is_running(process.pid)


def test_a_server_that_ignores_the_request_to_end_is_killed_with_its_children(tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    extra = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(child_file)!r}).write_text(str(child.pid))"
    )
    process = EngineProcess(script(extra), tmp_path / "engine.log")
    process.start(timeout_s=30.0)
    child = int(child_file.read_text())
    assert is_running(child)
    process.stop(grace_s=0.5)
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(process.pid)
    assert not is_running(child)


def test_the_environment_reaches_the_server(tmp_path: Path) -> None:
    extra = "import os; print('threads', os.environ['SLIMRL_TEST_THREADS'], flush=True)"
    log = tmp_path / "engine.log"
    with EngineProcess(script(extra), log, environment={"SLIMRL_TEST_THREADS": "7"}) as process:
        process.start(timeout_s=30.0)
    assert log.read_text() == "threads 7\n"


def test_a_process_that_was_not_started_has_no_address(tmp_path: Path) -> None:
    process = EngineProcess(script(), tmp_path / "engine.log")
    with pytest.raises(EngineError, match="before it is started"):
        _ = process.url
    process.stop()


def test_the_embedded_command_names_every_setting() -> None:
    settings = EngineSettings(
        Path("/models/m"), "cpu", "float32", 2, max_running_requests=8, deterministic=True, random_seed=5
    )
    assert " ".join(embedded_command(settings)[1:]) == (
        "-m slimrl.engines.embedded --model-path /models/m --device cpu --dtype float32 --max-running-requests 8 "
        f"--weight-version 0 --parent-pid {os.getpid()} --num-threads 2 --random-seed 5 "
        "--enable-deterministic-inference"
    )
