"""docs/plugins.md, followed as it stands: its files are written, its commands run, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("slimrl ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, and the package installed as its project file says."""
    folder = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {module}\n" for name, module in project["entry-points"]["slimrl"].items()]
    (info / "entry_points.txt").write_text("[slimrl]\n" + "".join(lines))
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_page_shows_the_whole_way() -> None:
    assert set(FILES) == {
        "short.py",
        "parts.py",
        "golden.jsonl",
        "short_reward.py",
        "pyproject.toml",
        "test_short.py",
    }
    assert {shlex.split(command)[1] for command in COMMANDS} == {"check", "score", "train", "new", "plugins"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "..." not in command])
def test_a_command_of_the_page_succeeds(folder: Path, command: str) -> None:
    done = run(folder, *shlex.split(command))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("reference", ["parts.py:score", "short"])
def test_each_reward_of_the_page_passes_its_checks(folder: Path, reference: str) -> None:
    done = run(folder, "slimrl", "check", reference, "--input", "golden.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 warnings, 0 failures" in done.stdout


def test_the_test_file_of_the_page_passes(folder: Path) -> None:
    done = run(folder, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_short.py")
    assert done.returncode == 0, done.stdout


def test_a_flag_of_the_page_is_a_flag() -> None:
    from slimrl.config.settings import settings

    known = {name.replace("_", "-") for name in settings()}
    trained = [word for command in COMMANDS if " train " in command for word in shlex.split(command)]
    tables = re.findall(r"\| `?(--[a-z][a-z-]+)", PAGE)
    flags = {word for word in (*trained, *tables) if word.startswith("--")}
    assert flags
    assert {flag.removeprefix("--") for flag in flags} <= known


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", PAGE))))
def test_a_link_of_the_page_leads_somewhere(link: str) -> None:
    name, _, heading = link.partition("#")
    text = (DOCS / name).read_text(encoding="utf-8") if name else PAGE
    titles = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)]
    assert not heading or heading in titles
