"""The command in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Runs the command and reports, on a line of its own, what it cost and which heavy libraries it loaded.
PROBE = """
import json, resource, sys
from slimrl.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in ("torch", "ray", "transformers", "datasets", "megatron") if name in sys.modules]
print("\\nPROBE" + json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "heavy": heavy}))
sys.exit(code)
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    cpu_s: float
    heavy: list[str]
    """Heavy libraries that were loaded."""


Run = Callable[..., Outcome]


@pytest.fixture
def slimrl(tmp_path: Path) -> Run:
    """Runs `slimrl WORDS...` in an empty folder."""

    def run(*words: object) -> Outcome:
        result = subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        stdout, found, probe = result.stdout.rpartition("\nPROBE")
        assert found, result.stderr
        return Outcome(result.returncode, stdout, result.stderr, **json.loads(probe))

    return run
