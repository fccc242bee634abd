"""The folder a run leaves behind: resolved configuration, plugin lock, metrics, samples, events, checkpoints."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it: readers see the old text or the new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


class RunDir:
    """Paths and append-only files of one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.plugins_lock = path / "plugins.lock"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events.jsonl"
        self.rollouts = path / "rollouts"
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.tensorboard = path / "tensorboard"
        self.curve = path / "reward_curve.png"

    def create(self) -> None:
        """Make the folders; fine if they are there."""
        for folder in (self.rollouts, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def event(self, name: str, **fields: Any) -> None:
        """Append one event with its time; values are JSON."""
        line = json.dumps({"time": round(time.time(), 3), "event": name, **fields}, default=str)
        with self.events.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """All steps' metrics in order; a line that a kill cut short is left out."""
        return _read_lines(self.metrics)

    def read_events(self) -> list[dict[str, Any]]:
        """All events in order; a line that a kill cut short is left out."""
        return _read_lines(self.events)

    def forget_from(self, step: int) -> None:
        """Drop metrics and samples of `step` and later: a resumed run writes them again."""
        rows = [row for row in self.read_metrics() if row["step"] < step]
        if self.metrics.exists():
            write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for path in (*self.rollouts.glob("*.parquet"), *self.path.glob("eval/*/*.parquet")):
            if path.stem.isdigit() and int(path.stem) >= step:
                path.unlink()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
