"""A stranger's package: built, installed in a clean environment, listed, used, trained with, uninstalled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests/fixtures/rl-reward-acme"
MAX_CPU_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and the CPU time it and its children took."""

    code: int
    stdout: str
    stderr: str
    cpu_s: float


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own that sees the packages of this one."""

    python: Path

    def pip(self, *words: str) -> None:
        done = subprocess.run(
            [str(self.python), "-m", "pip", *words], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr

    def slimrl(self, *words: object) -> Outcome:
        out, err = self.python.parent / "stdout", self.python.parent / "stderr"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                [str(self.python), "-m", "slimrl", *map(str, words)], cwd=ROOT, stdout=stdout, stderr=stderr
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Outcome(process.returncode, out.read_text(), err.read_text(), used.ru_utime + used.ru_stime)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as its author would upload it."""
    folder = tmp_path_factory.mktemp("build")
    source = shutil.copytree(FIXTURE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=400,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def acme(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which it is installed."""
    return make_environment(tmp_path_factory.mktemp("acme"), wheel)


def make_environment(folder: Path, wheel: Path) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=400)
    environment = Environment(folder / "bin/python")
    ours = sysconfig.get_path("purelib")
    (theirs,) = folder.glob("lib/python*/site-packages")
    # addsitedir, not the path alone: an editable install of slimrl is a .pth file in there
    (theirs / "development.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    environment.pip("install", "--quiet", "--no-index", "--no-deps", str(wheel))
    return environment


def train(environment: Environment, model: Path, *words: str) -> Outcome:
    return environment.slimrl(
        "train", "--config", ROOT / "examples/arithmetic/demo.toml", "--hf-checkpoint", model, *words
    )


def test_it_is_listed_with_what_is_wrong_with_it(acme: Environment) -> None:
    outcome = acme.slimrl("plugins", "--json")
    assert outcome.code == 0, outcome.stderr
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in json.loads(outcome.stdout):
        if row["distribution"] == "rl-reward-acme":
            rows[row["module"], row["name"]] = row
    states = {module: row["status"] for (module, _), row in rows.items()}
    assert states == {
        "acme_good": "ok",
        "acme_raises": "ok",
        "acme_hangs": "ok",
        "acme_math": "conflict",
        "acme_broken": "broken",
    }
    assert "No module named 'acme_symbolic_engine'" in json.dumps([*rows.values()])
    assert {row["version"] for row in rows.values()} == {"2.1"}


def test_its_reward_is_checked_and_scores_sums(acme: Environment, tmp_path: Path) -> None:
    (tmp_path / "golden.jsonl").write_text(
        '{"response": "3 + 4 is 7", "label": "7", "expected": {"score": 1, "right": 1, "brief": 1}}\n'
        '{"response": "It is 8.", "label": "7", "expected": 0}\n'
    )
    outcome = acme.slimrl("check", "acme_good", "--input", tmp_path / "golden.jsonl", "--json")
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    findings = {finding["check"]: finding for finding in json.loads(outcome.stdout)["findings"]}
    assert findings["golden"]["detail"] == "2 examples"
    assert [finding for finding in findings.values() if finding["outcome"] != "ok"] == []


def test_the_demo_takes_it_by_name_with_its_own_flags(acme: Environment, small_model: Path) -> None:
    outcome = train(acme, small_model, "--rm-type", "acme_good", "--acme-brief-chars", "20", "--dry-run")
    assert outcome.code == 0, outcome.stderr
    # a broken plugin nobody asked for is one line
    (warning,) = (line for line in outcome.stderr.splitlines() if "acme" in line)
    assert "acme-broken" in warning


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("math", ["'math' is offered by", "rl-reward-acme/math", "slimrl/math"]),
        ("acme_god", ["there is no reward 'acme_god'", "did you mean 'acme_good'?"]),
        ("acme_broken", ["'acme_broken'", "No module named 'acme_symbolic_engine'"]),
    ],
)
def test_a_wrong_name_is_one_error_before_anything_starts(
    acme: Environment, small_model: Path, name: str, said: list[str]
) -> None:
    outcome = train(acme, small_model, "--rm-type", name)
    assert outcome.code == 2
    assert outcome.stderr.count("error: ") == 1
    assert all(text in outcome.stderr for text in said), outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.cpu_s < MAX_CPU_S, outcome.cpu_s


@pytest.mark.parametrize("name", ["rl-reward-acme/math", "slimrl/math"])
def test_a_qualified_name_decides_a_clash(acme: Environment, small_model: Path, name: str) -> None:
    outcome = train(acme, small_model, "--rm-type", name, "--dry-run")
    assert outcome.code == 0, outcome.stderr


def test_after_it_is_uninstalled_its_name_is_a_miss(wheel: Path, tmp_path: Path, small_model: Path) -> None:
    environment = make_environment(tmp_path / "environment", wheel)
    environment.pip("uninstall", "--quiet", "--yes", "rl-reward-acme")
    outcome = train(environment, small_model, "--rm-type", "acme_good")
    assert outcome.code == 2
    assert outcome.stderr.count("error: ") == 1
    assert "there is no reward 'acme_good' (--rm-type" in outcome.stderr
    assert "did you mean one of those below, or is the package that offers it not installed here?" in outcome.stderr
    assert "available: " in outcome.stderr
    assert outcome.cpu_s < MAX_CPU_S, outcome.cpu_s
    assert train(environment, small_model, "--rm-type", "math", "--dry-run").code == 0


@pytest.mark.slow
def test_a_run_goes_on_when_one_reward_in_fifty_hangs_and_one_raises(
    acme: Environment, make_job: Callable[..., Any]
) -> None:
    job = make_job(num_rollout="2", rm_timeout="1")
    command = job.command("--reward", "acme_hangs=0.5", "--reward", "acme_raises=0.5")
    command[0] = str(acme.python)
    place = command.index("--custom-rm-path")
    del command[place : place + 2]
    done = subprocess.run(command, cwd=job.folder, capture_output=True, text=True, timeout=700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert [row["rollout/unscored_timeout_acme_hangs"] for row in rows] == [2, 1]  # samples 7 and 57, 107
    assert [row["rollout/unscored_error_acme_raises"] for row in rows] == [1, 2]  # 23, 73 and 123
    for step, row in enumerate(rows):
        samples = pq.read_table(job.folder / f"run/rollouts/{step:06}.parquet").to_pylist()
        check_step(samples, row)


def check_step(samples: list[dict[str, Any]], row: dict[str, float]) -> None:
    """Unscored samples are explained, and in no group's mean."""
    groups = defaultdict(list)
    for sample in samples:
        groups[sample["group_id"]].append(sample)
    unscored = [sample for sample in samples if sample["sample_id"] % 50 in (7, 23)]
    assert {sample["score_status"] for sample in unscored} == {"timeout", "error"}
    assert all(sample["value"] is None and sample["advantage"] is None for sample in unscored)
    scored = [sample for sample in samples if sample["value"] is not None]
    assert len(scored) == len(samples) - len(unscored)
    assert row["rollout/reward_mean"] == pytest.approx(sum(s["value"] for s in scored) / len(scored))
    for members in groups.values():
        assert sum(s["advantage"] for s in members if s["advantage"] is not None) == pytest.approx(0, abs=1e-4)
