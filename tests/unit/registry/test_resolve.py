from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slimrl import Sample, registry
from slimrl.errors import PluginError
from slimrl.registry import Options


def sample(response: str = "7", label: object = "7") -> Sample:
    return Sample(0, 0, 0, "prompt", [1, 2], label=label, response=response, tokens=[3, 4, 5])


@pytest.fixture(scope="module")
def plugins() -> registry.Registry:
    return registry.load(warn=False)


def problem(plugins: registry.Registry, reference: str, kind: str = "reward") -> str:
    with pytest.raises(PluginError) as caught:
        plugins.resolve(kind, reference)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_reward.py"
    path.write_text("def score(sample):\n    return 1.0 if sample.response == sample.label else 0.0\n")
    return path


def test_a_function_in_a_file_is_a_reward(plugins, file: Path) -> None:
    found = plugins.resolve("reward", f"{file}:score")
    assert (found.name, found.shape, found.is_async, found.file) == ("score", "ours", False, file)
    assert found.make(Options())(sample()) == 1.0


def test_a_relative_file_reference_becomes_absolute(plugins, file: Path, monkeypatch) -> None:
    monkeypatch.chdir(file.parent)
    assert plugins.resolve("reward", "my_reward.py:score").reference == f"{file}:score"


def test_a_file_is_loaded_once_and_anew_after_an_edit(plugins, file: Path) -> None:
    first = plugins.resolve("reward", f"{file}:score")
    again = plugins.resolve("reward", f"{file}:score")
    assert first.make(Options()) is again.make(Options())
    file.write_text("def score(sample):\n    return 0.5\n")
    edited = plugins.resolve("reward", f"{file}:score")
    assert edited.make(Options())(sample()) == 0.5
    assert edited.file_hash != first.file_hash


@pytest.mark.parametrize("reference", ["textwrap:shorten_it", "textwrap.shorten_it"])
def test_a_missing_attribute_gets_a_suggestion(plugins, reference: str) -> None:
    assert "has no 'shorten_it'; did you mean 'shorten'?" in problem(plugins, reference)


@pytest.mark.parametrize("reference", ["operator:attrgetter", "operator.truth"])
def test_modules_are_reached_by_colon_and_by_dot(plugins, reference: str) -> None:
    if reference.endswith("attrgetter"):
        assert "is a class" in problem(plugins, reference)
    else:
        assert plugins.resolve("reward", reference).name == "truth"


def test_a_misspelt_name_gets_a_suggestion_and_what_is_available(plugins) -> None:
    said = problem(plugins, "maht")
    assert "there is no reward 'maht'" in said
    assert "did you mean 'math'?" in said
    assert "math (slimrl)" in said


def test_a_misspelt_name_lists_what_failed_to_load(install) -> None:
    install("rl-reward-acme", {"acme_broken": "import a_module_that_is_not_there\n"})
    said = problem(registry.load(warn=False), "acme_reward")
    assert "failed to load: acme_broken (rl-reward-acme 1.2, acme_broken): ModuleNotFoundError" in said


def test_a_conflict_lists_qualified_names_and_each_of_them_resolves(install, reward_plugin) -> None:
    install("rl-reward-acme", {"acme_math": reward_plugin("math")})
    plugins = registry.load(warn=False)
    said = problem(plugins, "math")
    assert "slimrl/math" in said
    assert "rl-reward-acme/math" in said
    assert plugins.resolve("reward", "rl-reward-acme/math").distribution == "rl-reward-acme"
    assert plugins.resolve("reward", "slimrl/math").distribution == "slimrl"


def test_a_qualified_reference_is_what_resolution_returns(plugins) -> None:
    assert plugins.resolve("reward", "math").reference == "slimrl/math"


@pytest.mark.parametrize(
    ("kind", "reference", "name"),
    [
        (
            "dynamic_filter",
            "slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std",
            "check_reward_nonzero_std",
        ),
        ("buffer_filter", "slime.rollout.filter_hub.buffer_filters.pop_first", "pop_first"),
        ("buffer_filter", "slime.rollout.data_source.pop_first", "pop_first"),
    ],
)
def test_slimes_own_paths_lead_to_ours_with_a_note(plugins, caplog, kind: str, reference: str, name: str) -> None:
    with caplog.at_level("INFO", logger="slimrl"):
        found = plugins.resolve(kind, reference)
    assert found.reference == f"slimrl/{name}"
    assert reference in caplog.text


def test_a_missing_file_module_and_function_are_each_named(plugins, file: Path) -> None:
    assert "there is no file /no/such.py" in problem(plugins, "/no/such.py:score")
    assert "there is no module 'no_such_package'" in problem(plugins, "no_such_package.reward:score")
    assert "say which function" in problem(plugins, str(file))
    assert "did you mean 'score'?" in problem(plugins, f"{file}:scores")


def test_an_import_that_fails_says_what_failed_and_where(plugins, tmp_path: Path) -> None:
    path = tmp_path / "failing.py"
    path.write_text("import math\nvalue = math.sqrt(-1)\n")
    said = problem(plugins, f"{path}:score")
    assert "ValueError" in said
    assert f"{path}:2" in said


def test_a_syntax_error_in_a_file_is_a_plugin_error(plugins, tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text("def score(sample:\n")
    assert "SyntaxError" in problem(plugins, f"{path}:score")


def test_the_hash_of_a_packaged_plugin_covers_the_modules_next_to_it(plugins, tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "acme_rewards"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("VALUE = 1\n")
    (package / "reward.py").write_text("def score(sample):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = plugins.resolve("reward", "acme_rewards.reward:score").file_hash
    (package / "helper.py").write_text("VALUE = 2\n")
    assert plugins.resolve("reward", "acme_rewards.reward:score").file_hash != before


def test_resolving_by_path_loads_nothing_heavy(file: Path) -> None:
    code = (
        "import sys; from slimrl import registry; registry.load(warn=False).resolve('reward', sys.argv[1]); "
        "print([m for m in ('torch', 'ray', 'transformers', 'sympy', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, f"{file}:score"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
