"""`slimrl plugins` and `slimrl plugins info NAME`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl.cli.main import main

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIMRL_PLUGINS", raising=False)


@pytest.fixture
def strangers(install, reward_plugin) -> None:
    install(
        "rl-reward-acme", {"acme": "print('hello')\n" + reward_plugin("acme_good"), "acme_math": reward_plugin("math")}
    )
    install("rl-reward-bad", {"bad": "import a_module_that_is_not_there\n"})


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main(["plugins", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["plugins", *argv]) == 2
    return capsys.readouterr().err


def test_it_is_quick_and_loads_nothing_heavy(slimrl: Run) -> None:
    outcome = slimrl("plugins")
    assert (outcome.code, outcome.heavy) == (0, [])
    assert outcome.cpu_s < 2
    assert "slimrl_rewards.math" in outcome.stdout


def test_every_plugin_is_a_row_with_its_status(strangers, capsys) -> None:
    found = {row["qualified_name"]: row for row in document(capsys, "-p", "no:single_turn")}
    good = found["rl-reward-acme/acme_good"]
    assert (good["kind"], good["status"], good["version"], good["module"]) == ("reward", "ok", "1.2", "acme")
    conflict = found["rl-reward-acme/math"]
    assert (conflict["status"], found["slimrl/math"]["status"]) == ("conflict", "conflict")
    assert "write rl-reward-acme/math" in conflict["reason"]
    bad = found["rl-reward-bad/bad"]
    assert (bad["kind"], bad["status"]) == (None, "broken")
    assert "ModuleNotFoundError" in bad["reason"]
    off = found["slimrl/single_turn"]
    assert (off["kind"], off["status"]) == ("generator", "disabled")
    assert [option["flag"] for option in found["slimrl/dapo"]["options"]] == ["--dapo-strict-box-verify"]


def test_the_table_says_the_same(strangers, capsys) -> None:
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "name", "distribution", "module", "status", "options"]
    assert any("rl-reward-bad 1.2" in line and "broken: ModuleNotFoundError" in line for line in lines)


def test_one_kind_alone_still_shows_what_is_broken(strangers, capsys) -> None:
    assert {row["kind"] for row in document(capsys, "--kind", "generator")} == {"generator", None}


def test_info_of_a_name_tells_everything(capsys) -> None:
    found = document(capsys, "info", "dapo")
    assert (found["reference"], found["shape"], found["is_async"]) == ("slimrl/dapo", "factory", False)
    assert found["traits"]["key"] == "score"
    assert found["use"][0] == "--rm-type dapo"
    assert found["options"][0]["help"].endswith(".")
    assert found["options"][0]["table"] == "dapo"
    assert len(found["sha256"]) == 64
    assert found["doc"].startswith("Reward `dapo`")
    assert found["file"].endswith("dapo.py")


def test_info_as_text_has_flag_options_and_docstring(capsys) -> None:
    assert main(["plugins", "info", "dapo"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("slimrl/dapo\n")
    assert all(word in text for word in ("--rm-type dapo", "--dapo-strict-box-verify ([dapo]", "Reward `dapo`"))


def test_info_of_a_reference_by_path(tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.py"
    path.write_text('def score(completions, ground_truth, **kwargs):\n    """Mine."""\n    return [1.0]\n')
    found = document(capsys, "info", f"{path}:score")
    assert (found["shape"], found["signature"]) == ("trl", "(completions, ground_truth, **kwargs)")
    assert (found["doc"], found["file"]) == ("Mine.", str(path))
    assert found["use"][0] == f"--custom-rm-path {path}:score"


def test_info_of_a_boxed_name_is_its_own_plugin(capsys) -> None:
    found = document(capsys, "info", "boxed_dapo")
    assert (found["reference"], found["distribution"]) == ("slimrl/boxed_dapo", "slimrl")
    assert found["use"][0] == "--rm-type boxed_dapo"


def test_info_of_a_name_that_two_offer_tells_of_both(strangers, capsys) -> None:
    assert [row["qualified_name"] for row in document(capsys, "info", "math")] == ["rl-reward-acme/math", "slimrl/math"]
    assert document(capsys, "info", "slimrl/math")["distribution"] == "slimrl"


def test_info_of_a_broken_or_a_disabled_plugin_says_why(strangers, capsys) -> None:
    assert "ModuleNotFoundError" in document(capsys, "info", "rl-reward-bad")["reason"]
    assert "disabled by -p no:acme" in document(capsys, "info", "acme", "-p", "no:acme")["reason"]


def test_info_of_a_plugin_that_needs_a_flag_says_which(capsys) -> None:
    assert "--rm-url" in document(capsys, "info", "remote_rm")["problem"]


def test_an_unknown_name_is_refused_with_the_nearest(capsys) -> None:
    assert "there is no plugin 'single_trun'; did you mean single_turn?" in error(capsys, "info", "single_trun")
    assert "there is no file" in error(capsys, "info", "nowhere.py:score")
    assert "there is no generator 'dapo'" in error(capsys, "info", "dapo", "--kind", "generator")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--jsn"], "unknown flag --jsn; did you mean --json?"),
        (["--kind", "rewrd"], "got 'rewrd'; did you mean reward?"),
        (["--kind"], "--kind takes one of reward"),
        (["math"], "write slimrl plugins, or slimrl plugins info math"),
        (["info"], "takes one NAME"),
        (["info", "a", "b"], "takes one NAME"),
        (["-p"], "-p takes the name of a plugin"),
    ],
)
def test_wrong_words_are_one_clear_error(argv: list[str], said: str, capsys) -> None:
    assert said in error(capsys, *argv)


def test_help_names_the_flags(capsys) -> None:
    assert main(["plugins", "--help"]) == 0
    assert "--kind KIND" in capsys.readouterr().out


def test_what_selects_nothing_is_a_warning(capsys) -> None:
    assert main(["plugins", "-p", "no:dapoo", "-p", "nowhere"]) == 0
    said = capsys.readouterr().err
    assert "warning: -p no:dapoo matches no installed plugin; did you mean dapo?" in said
    assert "warning: -p nowhere" in said
