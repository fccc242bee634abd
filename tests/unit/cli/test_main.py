"""The command itself: help, version, unknown commands and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from slimrl import UsageError, __version__
from slimrl.cli.main import COMMANDS, main
from slimrl.errors import EngineError

Run = Callable[..., Any]


@pytest.fixture
def subcommand(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sequence[str]], int]], None]:
    """Puts a function in the place of `slimrl serve`."""

    def put(function: Callable[[Sequence[str]], int]) -> None:
        module = ModuleType("slimrl.cli.serve")
        module.main = function  # type: ignore[attr-defined]  # a module made for the test
        monkeypatch.setitem(sys.modules, "slimrl.cli.serve", module)

    return put


def raises(error: BaseException) -> Callable[[Sequence[str]], int]:
    def run(argv: Sequence[str]) -> int:
        raise error

    return run


def test_the_version_is_quick_and_light(slimrl: Run) -> None:
    outcome = slimrl("--version")
    assert (outcome.code, outcome.stdout.strip(), outcome.heavy) == (0, f"slimrl {__version__}", [])
    assert outcome.cpu_s < 1


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_no_command_is_a_usage_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: slimrl COMMAND" in capsys.readouterr().out


def test_a_misspelt_command_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'trian'; did you mean train?\n"


def test_a_command_like_no_other_gets_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zzz"]) == 2
    assert capsys.readouterr().err == f"error: unknown command 'zzz'; there are: {', '.join(COMMANDS)}\n"


def test_the_subcommand_gets_the_rest_and_gives_the_exit_code(subcommand: Any) -> None:
    seen: list[str] = []

    def run(argv: Sequence[str]) -> int:
        seen.extend(argv)
        return 7

    subcommand(run)
    assert main(["serve", "--port", "1"]) == 7
    assert seen == ["--port", "1"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (EngineError("gone"), 1, "error: gone\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(0), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("why"), 1, ""),
    ],
)
def test_an_error_becomes_a_message_and_an_exit_code(
    error: BaseException, code: int, message: str, subcommand: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    subcommand(raises(error))
    assert main(["serve"]) == code
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback(subcommand: Any) -> None:
    subcommand(raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["serve"])
