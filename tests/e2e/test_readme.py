"""What the README says: its commands run, its code is the example's, its paths exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
]


def run(command: str, model: Path | None = None, output: Path | None = None) -> subprocess.CompletedProcess[str]:
    instead = {"DIR": str(model), "scores.jsonl": str(output)}
    words = [instead.get(word, word) for word in shlex.split(command)]
    words[:1] = [sys.executable, "-m", "slimrl"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("slimrl") and " serve " not in c])
def test_commands_run(command: str, small_model: Path, tmp_path: Path) -> None:
    done = run(command, small_model, tmp_path / "scores.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_engine_can_be_served_with_the_flags_shown(tiny_checkpoint: Path) -> None:
    (command,) = (c for c in COMMANDS if " serve " in c)
    done = run(command + " --help", tiny_checkpoint)
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in re.findall(r"--[a-z-]+", command))


def test_the_reward_shown_is_the_example() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert code.strip() == (ROOT / "examples/arithmetic/reward.py").read_text().strip()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.toml")), ids=lambda path: path.name)
def test_every_example_configuration_passes_all_checks(path: Path, small_model: Path) -> None:
    done = run(f"slimrl train --config {path} --hf-checkpoint DIR --dry-run", small_model)
    assert done.returncode == 0, done.stderr


def test_the_example_data_is_what_its_script_writes_and_the_splits_are_disjoint() -> None:
    folder = ROOT / "examples/arithmetic"
    problems = {name: set((folder / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "test")}
    before = {name: (folder / f"{name}.jsonl").read_bytes() for name in problems}
    subprocess.run([sys.executable, str(folder / "make_data.py")], check=True, timeout=60)
    assert {name: (folder / f"{name}.jsonl").read_bytes() for name in problems} == before
    sums = {name: {tuple(sorted(re.findall(r"\d", row)[:2])) for row in rows} for name, rows in problems.items()}
    assert not sums["train"] & sums["test"]
    assert len(sums["train"] | sums["test"]) == 55
