"""What strangers' modules do when they are imported, and how the command says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from slimrl import Sample, registry
from slimrl.errors import PluginError
from slimrl.registry import Options


def problem(reference: str, found: registry.Registry | None = None) -> str:
    with pytest.raises(PluginError) as caught:
        (found or registry.load(warn=False)).resolve("reward", reference)
    return str(caught.value)


def test_the_failure_of_the_plugin_that_was_meant_comes_first(install, reward_plugin) -> None:
    install("rl-reward-acme", {"acme": "import a_module_that_is_not_there\n"})
    first = problem("acme_good").splitlines()[0]
    assert "there is no reward 'acme_good'" in first
    assert "plugin acme (rl-reward-acme 1.2, acme) failed to load: ModuleNotFoundError" in first
    assert "failed to load" in problem("rl-reward-acme/good").splitlines()[0]


def test_a_near_miss_still_gets_its_suggestion_beside_a_broken_plugin(install) -> None:
    install("rl-reward-acme", {"acme_math": "import a_module_that_is_not_there\n"})
    assert "did you mean 'math_verify'?" in problem("math_verfy").splitlines()[0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import sys\nsys.exit('no licence')\n", "SystemExit: no licence"),
        ("import pytest\npytest.skip('not here', allow_module_level=True)\n", "Skipped"),
        ("from edge_plugin import later\nlater = 1\n", "partially initialized module"),
        ("def broken(:\n", "SyntaxError"),
    ],
)
def test_whatever_an_import_does_is_a_reason_and_not_an_end(install, source: str, reason: str) -> None:
    install("rl-reward-edge", {"edge_plugin": source})
    broken = {p.origin.entry_point: p.reason for p in registry.load(warn=False).catalogue.broken}
    assert reason in broken["edge_plugin"]


def test_a_plugin_that_prints_or_warns_is_loaded_and_leaves_stdout_alone(install, reward_plugin, capsys) -> None:
    noise = "import warnings\nprint('hello')\nwarnings.warn('old', DeprecationWarning)\n"
    install("rl-reward-loud", {"loud_plugin": noise + reward_plugin("loud")})
    assert registry.load(warn=False).resolve("reward", "loud").distribution == "rl-reward-loud"
    assert capsys.readouterr().out == ""


def test_a_file_that_warns_exits_or_prints_is_treated_alike(tmp_path: Path, capsys) -> None:
    path = tmp_path / "loud.py"
    path.write_text("import warnings\nprint('hello')\nwarnings.warn('old')\nscore = lambda sample: 0.5\n")
    found = registry.load(warn=False).resolve("reward", f"{path}:score")
    assert found.make(Options())(Sample(0, 0, 0, "", [])) == 0.5
    assert capsys.readouterr().out == ""
    path.write_text("raise SystemExit('no licence')\n")
    assert "SystemExit: no licence" in problem(f"{path}:score")


def test_two_entry_points_of_one_distribution_with_one_name_say_what_to_leave_out(install, reward_plugin) -> None:
    install("rl-reward-two", {"two_a": reward_plugin("same"), "two_b": reward_plugin("same")})
    said = problem("same")
    assert "-p no:rl-reward-two/two_a or -p no:rl-reward-two/two_b" in said
    selection = registry.PluginSelection(("rl-reward-two/two_b",))
    assert registry.load(selection=selection, warn=False).resolve("reward", "same").entry_point == "two_a"


def test_a_distribution_that_is_installed_twice_is_named(install, reward_plugin, tmp_path: Path, caplog) -> None:
    install("rl-reward-twice", {"twice": reward_plugin("twice")})
    other = tmp_path / "rl_reward_twice-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: rl-reward-twice\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[slimrl]\ntwice = twice\n")
    with caplog.at_level(logging.WARNING):
        found = registry.load()
    assert found.resolve("reward", "twice").distribution == "rl-reward-twice"
    assert "rl-reward-twice is installed 2 times (1.2 in" in caplog.text


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("  ", "empty reference"),
        ("ma th", "there is no reward 'ma th'"),
        (":score", "incomplete"),
        ("textwrap:", "incomplete"),
        ("textwrap:TextWrapper", "is a class"),
        ("textwrap.", "incomplete"),
        ("no-such/math", "there is no reward 'no-such/math'"),
    ],
)
def test_odd_references_are_explained(reference: str, said: str) -> None:
    assert said in problem(reference)


def test_blanks_around_a_reference_do_not_count() -> None:
    assert registry.load(warn=False).resolve("reward", " math ").name == "math"


def test_a_distribution_may_be_spelt_as_indexes_compare_it(install, reward_plugin) -> None:
    install("rl-reward-acme", {"acme": reward_plugin("good")})
    assert registry.load(warn=False).resolve("reward", "RL_reward.Acme/good").reference == "rl-reward-acme/good"


def test_a_factory_behind_a_partial_is_hashed_by_its_own_module(install) -> None:
    source = (
        "import functools\nfrom slimrl import hookimpl\ndef make(limit, options):\n    return lambda sample: limit\n"
        "@hookimpl\ndef slimrl_offer_rewards():\n    return {'part': functools.partial(make, 3)}\n"
    )
    install("rl-reward-part", {"part_plugin": source})
    found = registry.load(warn=False).resolve("reward", "part")
    assert found.file is not None
    assert found.file.name == "part_plugin.py"


def test_the_hash_covers_sub_packages_and_the_packages_above(tmp_path: Path, monkeypatch) -> None:
    files = ["__init__.py", "rewards/__init__.py", "rewards/good.py", "helpers/__init__.py", "helpers/deep.py"]
    for name in files:
        (tmp_path / "acme_pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "acme_pkg" / name).write_text("def score(sample):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.load(warn=False)
    before = found.resolve("reward", "acme_pkg.rewards.good:score").file_hash
    assert found.resolve("reward", "acme_pkg.rewards.good:score").file_hash == before
    (tmp_path / "acme_pkg/helpers/deep.py").write_text("def score(sample):\n    return 2\n")
    assert found.resolve("reward", "acme_pkg.rewards.good:score").file_hash != before
