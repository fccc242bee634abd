"""The checks and fixtures in somebody else's pytest session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLUGIN = """
from slimrl import Verdict
def keep(group):
    return Verdict(len(group) > 1, "alone")
def bad(group):
    group.samples.clear()
    return True
def odd(group):
    return Verdict(False, "")
"""


def run_pytest(folder: Path, test: str = "", *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "myfilter.py").write_text(PLUGIN)
    if test:
        (folder / "test_mine.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def conformance_of(name: str, extra: str = "") -> str:
    return (
        "from slimrl.testing import conformance\n"
        f"test_conforms = conformance('dynamic_filter', 'myfilter.py:{name}'{extra})\n"
    )


def test_an_authors_file_has_one_test_a_check(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, conformance_of("keep"), "-W", "error")
    assert done.returncode == 0, done.stdout
    assert "PASSED test_mine.py::test_conforms[unscored]" in done.stdout
    assert "9 passed" in done.stdout


def test_a_function_of_a_test_file_is_checked_where_only_pytest_can_import_the_file(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text(
        PLUGIN + "from slimrl.testing import conformance\ntest_conforms = conformance('dynamic_filter', keep)\n"
    )
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "9 passed" in done.stdout, done.stdout


def test_a_failed_check_says_what_must_hold_and_what_was_seen(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, conformance_of("bad"))
    assert done.returncode == 1
    assert "it does not change the group: it changed a group (mixed)" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_warning_warns_and_fails_where_it_is_strict(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, conformance_of("odd"))
    assert done.returncode == 0, done.stdout
    assert "ConformanceWarning" in done.stdout
    done = run_pytest(tmp_path, conformance_of("odd", ", strict=True"))
    assert done.returncode == 1
    assert "1 failed, 8 passed" in done.stdout


def test_a_reference_that_leads_nowhere_fails_once_and_skips_the_rest(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, conformance_of("kept"))
    assert done.returncode == 1
    assert "did you mean 'keep'?" in done.stdout
    assert "1 failed, 8 skipped" in done.stdout


def test_the_command_line_checks_a_plugin_without_a_test_file(tmp_path: Path) -> None:
    words = ["--slimrl-check", "myfilter.py:keep", "--slimrl-check-kind", "dynamic-filter"]
    done = run_pytest(tmp_path, "", *words)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
    done = run_pytest(tmp_path, "", "--slimrl-check", "x", "--slimrl-check-kind", "filters")
    assert done.returncode == 4
    assert "there are no checks for 'filters'" in done.stderr + done.stdout


def test_a_project_that_knows_nothing_of_slimrl_is_not_disturbed(tmp_path: Path) -> None:
    test = (
        "import sys\n"
        "def test_it():\n"
        "    heavy = {'torch', 'ray', 'numpy', 'transformers', 'sympy', 'slimrl.registry', 'slimrl.scoring'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    done = run_pytest(tmp_path, test, "-W", "error", "--strict-markers", "--strict-config")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_fixtures_give_samples_groups_an_engine_and_scores(
    slimrl_sample, slimrl_group, slimrl_engine, slimrl_score
) -> None:
    assert slimrl_sample("7", "7").label == "7"
    assert len(slimrl_group([1.0, 0.0])) == 2
    assert slimrl_engine.requests == []
    assert slimrl_score("math", r"\boxed{7}", "7").value == 1.0


def test_the_fixtures_are_listed_with_their_docstrings(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "", "--fixtures")
    for name in ("slimrl_sample", "slimrl_group", "slimrl_engine", "slimrl_score"):
        assert name in done.stdout
