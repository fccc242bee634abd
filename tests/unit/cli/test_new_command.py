"""`slimrl new`: what it writes installs, passes its own tests, and is a plugin like any other."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl.scaffold.distribution import KITS

Run = Callable[..., Any]


@pytest.mark.parametrize("word", KITS)
def test_a_new_distribution_installs_and_passes_its_own_tests(slimrl: Run, tmp_path: Path, word: str) -> None:
    outcome = slimrl("new", word, "my-own", "--path", "work")
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "work" / f"rl-{word}-my-own"
    assert outcome.stdout.startswith(f"work/rl-{word}-my-own\n")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(folder)], check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert tests.returncode == 0, tests.stdout
    lint = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F,W,I,UP,B",
        "--line-length",
        "120",
        ".",
    ]
    done = subprocess.run(lint, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_project_file_names_distribution_entry_point_and_module(slimrl: Run, tmp_path: Path) -> None:
    slimrl("new", "reward", "short_answers")
    folder = tmp_path / "rl-reward-short-answers"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "rl-reward-short-answers"
    assert project["entry-points"]["slimrl"] == {"reward-short-answers": "rl_reward_short_answers"}
    assert '"short_answers": make' in (folder / "rl_reward_short_answers.py").read_text()
    readme = (folder / "README.md").read_text()
    assert "slimrl train --rm-type short_answers" in readme
    assert "slimrl check short_answers --input tests/golden.jsonl" in readme
    assert "$" not in readme


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: slimrl new"),
        (["reward"], "usage: slimrl new"),
        (["rewrad", "x"], "cannot write a new 'rewrad'; did you mean reward?"),
        (["reward", "Bad Name"], "'Bad Name' cannot be a plugin's name"),
        (["reward", "../x"], "'../x' cannot be a plugin's name"),
        (["reward", "7up"], "'7up' cannot be a plugin's name"),
        (["reward", "a" * 41], "at most 40 characters"),
        (["reward", "rl-reward-x"], "give the part after rl-reward- alone"),
        (["reward", "math"], "there is a reward 'math' already, from reward-math (slimrl "),
        (["filter", "check-reward-nonzero-std"], "there is a dynamic filter 'check_reward_nonzero_std' already"),
        (["reward", "x", "--pth", "y"], "unknown flag --pth; did you mean --path?"),
        (["reward", "x", "--path"], "--path takes a folder"),
        (["reward", "x", "--path", "/proc"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_clear_error_and_writes_nothing(
    slimrl: Run, tmp_path: Path, words: list[str], said: str
) -> None:
    outcome = slimrl("new", *words)
    assert outcome.code == 2
    assert outcome.stderr.count("error: ") == 1
    assert said in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(slimrl: Run, tmp_path: Path) -> None:
    (tmp_path / "rl-reward-x").mkdir()
    outcome = slimrl("new", "reward", "x")
    assert (outcome.code, "rl-reward-x exists" in outcome.stderr) == (2, True)
    assert list((tmp_path / "rl-reward-x").iterdir()) == []
