"""A plugin looked at in a process of its own: it may hang, crash or change what it should not."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from slimrl.protocols import PluginOptions
from slimrl.registry import Resolved
from slimrl.registry.kinds import AnyKind
from slimrl.types import Sample

Row = dict[str, Any]
"""One thing the process said, as JSON values."""


@dataclass(frozen=True)
class Question:
    """What the process is told: which plugin to make, and what to try it on."""

    kind: AnyKind
    reference: str
    entry_point: str | None
    """The one plugin to import; None for a reference by path."""
    is_group: bool
    options: PluginOptions
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def about(cls, resolved: Resolved, options: PluginOptions, samples: list[Sample] | None = None) -> Question:
        """The question for a resolved plugin."""
        return cls(
            resolved.kind, resolved.reference, resolved.entry_point, resolved.is_group, options, list(samples or [])
        )


@dataclass(frozen=True)
class Answer:
    """Everything the process said before it ended, and how it ended."""

    rows: list[Row]
    problem: str = ""
    """Empty if it got to its end."""

    def one(self, key: str) -> Row | None:
        """The first row that has a key."""
        return next((row for row in self.rows if key in row), None)

    def all(self, key: str) -> list[Row]:
        """The rows that have a key."""
        return [row for row in self.rows if key in row]


def ask(question: Question, *, timeout_s: float, hash_seed: int = 0) -> Answer:
    """Ask in a fresh process, killed with everything it started after `timeout_s`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "slimrl.testing.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"},
    )
    told = json.dumps(sys.path).encode() + b"\n" + pickle.dumps(question)
    problem = ""
    try:
        said, noise = process.communicate(told, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        said, noise = process.communicate()
        problem = f"it did not finish within {timeout_s:g} s"
    finally:
        _kill(process)
    rows = [json.loads(line) for line in said.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    if not problem and not (rows and "end" in rows[-1]):
        last = noise.decode(errors="replace").strip().splitlines()[-1:]
        how = f"was ended by {signal.Signals(-process.returncode).name}" if process.returncode < 0 else "ended early"
        problem = f"its process {how}" + (f": {last[0]}" if last else "")
    return Answer(rows, problem)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
