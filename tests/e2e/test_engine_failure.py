"""Engines that are killed in the middle of a run: their work moves, they come back, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 24


def engines_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The engine servers of a run, in the order of their logs."""
    children = psutil.Process(process.pid).children(recursive=True)
    found = {}
    for child in children:
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if "slimrl.engines.embedded" in words:
            found[words[words.index("--port-file") + 1]] = child
    return [found[name] for name in sorted(found)]


def events(run: Path, name: str) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not holds():
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


@pytest.mark.long
def test_killed_engines_come_back_with_the_current_weights_and_no_sample_is_lost(make_job: Callable[..., Any]) -> None:
    job = make_job(num_rollout=str(STEPS), rollout_num_gpus="2", rollout_max_response_len="48", lr="1e-4")
    process, run = job.start(), job.folder / "run"
    try:
        until(lambda: len(job.metrics()) >= 2, process)
        os.kill(engines_of(process)[0].pid, signal.SIGKILL)
        until(lambda: len(events(run, "engine_back")) == 1, process)
        steps_when_back = len(job.metrics())
        until(lambda: len(job.metrics()) >= steps_when_back + 2, process)
        for engine in engines_of(process):
            os.kill(engine.pid, signal.SIGKILL)
        assert process.wait(200) == 0, (job.folder / "stdout").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

    assert next(event["engine"] for event in events(run, "engine_lost")) == 0
    assert sorted(event["engine"] for event in events(run, "engine_lost")[1:]) == [0, 1]
    assert sorted(event["engine"] for event in events(run, "engine_back")[1:]) == [0, 1]
    assert events(run, "engine_given_up") == []
    rows = job.metrics()
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[-1]["rollout/engines_alive"] == 2
    assert max(row["train/log_prob_abs_diff_max"] for row in rows) < 1e-3
    ids = []
    for step in range(STEPS):
        samples = pq.read_table(run / "rollouts" / f"{step:06d}.parquet").to_pylist()
        ids += [sample["sample_id"] for sample in samples]
        assert {sample["status"] for sample in samples} <= {"completed", "truncated"}
        assert {version for sample in samples for version in sample["weight_versions"]} == {step}
    assert sorted(ids) == list(range(64 * STEPS))
