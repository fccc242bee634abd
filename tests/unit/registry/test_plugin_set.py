from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from slimrl import Sample
from slimrl.config import GrpoConfig, RolloutConfig
from slimrl.errors import PluginError
from slimrl.registry import Options, PluginReferences, PluginSet, RewardReferences, resolve_all

REWARD = "def score(sample):\n    return 1.0 if sample.response == sample.label else 0.0\n"
ADVANTAGE = "def advantage(rewards, group_ids):\n    return rewards\n"


@dataclass(frozen=True)
class LengthOptions:
    length_limit: int = 100


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "advantage.py").write_text(ADVANTAGE)
    return tmp_path


def references(files: Path, **changes: str) -> PluginReferences:
    reward = changes.pop("reward", f"{files}/reward.py:score")
    chosen = {"advantage": f"{files}/advantage.py:advantage", **changes}
    return PluginReferences(RewardReferences.one(reward), **chosen)


def reward_of(plugins: PluginSet, sample: Sample) -> object:
    (component,) = plugins.rewards.default
    return component.resolved.make(plugins.options)(sample)


def test_custom_rm_path_overrides_rm_type_and_becomes_absolute(files: Path, monkeypatch) -> None:
    monkeypatch.chdir(files)
    rollout = RolloutConfig(rm_type="math", custom_rm_path="reward.py:score", reward_key="acc")
    found = PluginReferences.from_config(rollout, GrpoConfig())
    assert found.rewards == RewardReferences.one(f"{files}/reward.py:score", reward_key="acc")
    assert (found.generator, found.buffer_filter, found.advantage) == ("single_turn", "pop_first", "grpo")
    assert (found.dynamic_filter, found.search_path) == (None, (str(files),))


def test_a_configuration_without_a_reward_says_which_flags_give_one() -> None:
    with pytest.raises(PluginError, match="--rm-type NAME or --custom-rm-path"):
        PluginReferences.from_config(RolloutConfig(rm_type=" "), GrpoConfig())


def test_all_problems_are_reported_at_once(files: Path) -> None:
    wrong = references(files, reward="maht", generator="single_trun", buffer_filter="pop_last")
    with pytest.raises(PluginError) as caught:
        resolve_all(wrong, Options())
    assert len(caught.value.problems) == 3
    assert "'maht'" in str(caught.value)
    assert "'single_trun'" in str(caught.value)


def test_the_set_holds_the_plugins_themselves(files: Path) -> None:
    plugins = resolve_all(references(files, dynamic_filter="check_reward_nonzero_std"), Options())
    assert reward_of(plugins, Sample(0, 0, 0, "", [], label="a", response="a")) == 1.0
    assert plugins.buffer_filter([], 3) == []
    assert plugins.dynamic_filter is not None
    assert plugins.generate is plugins.generate
    assert [row["kind"] for row in plugins.lock()] == [
        "reward",
        "generator",
        "dynamic_filter",
        "buffer_filter",
        "advantage",
    ]


def test_the_lock_names_distribution_version_file_and_hash(files: Path) -> None:
    rows = {row["kind"]: row for row in resolve_all(references(files), Options()).lock()}
    assert rows["generator"]["distribution"] == "slimrl"
    assert rows["generator"]["version"]
    assert rows["reward"]["file"] == str(files / "reward.py")
    assert len(str(rows["reward"]["sha256"])) == 64


def test_another_process_finds_the_same_fingerprint(files: Path, tmp_path: Path) -> None:
    plugins = resolve_all(references(files), Options([GrpoConfig()]))
    message = pickle.dumps((plugins.references, plugins.options, plugins.fingerprint)).hex()
    code = (
        "import pickle, sys\nfrom slimrl.registry import resolve_all\n"
        "references, options, fingerprint = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(resolve_all(references, options, expected_fingerprint=fingerprint).fingerprint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, message], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == plugins.fingerprint


def test_a_changed_file_is_a_fingerprint_mismatch(files: Path) -> None:
    plugins = resolve_all(references(files), Options())
    (files / "reward.py").write_text(REWARD + "# edited\n")
    with pytest.raises(PluginError, match="not the driver's"):
        resolve_all(plugins.references, plugins.options, expected_fingerprint=plugins.fingerprint)


def test_the_same_file_in_another_folder_has_the_same_fingerprint(files: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("reward.py", "advantage.py"):
        (elsewhere / name).write_text((files / name).read_text())
    here, there = (resolve_all(references(folder), Options()) for folder in (files, elsewhere))
    assert here.fingerprint == there.fingerprint


def test_a_factory_that_fails_is_a_plugin_error_on_the_driver(files: Path, install) -> None:
    source = (
        "from slimrl import hookimpl\ndef make(options):\n    import a_module_that_is_not_there\n"
        "@hookimpl\ndef slimrl_offer_rewards():\n    return {'needy': make}\n"
    )
    install("rl-reward-needy", {"needy_reward": source})
    with pytest.raises(PluginError, match="cannot be made: ModuleNotFoundError"):
        resolve_all(references(files, reward="needy"), Options())


def test_a_plugins_options_have_defaults_and_can_be_given(files: Path, install) -> None:
    source = (
        "from dataclasses import dataclass\nfrom slimrl import hookimpl\n"
        "@dataclass(frozen=True)\nclass ShortOptions:\n    limit: int = 7\n"
        "@hookimpl\ndef slimrl_options():\n    return [ShortOptions]\n"
        "@hookimpl\ndef slimrl_offer_rewards():\n"
        "    return {'short': lambda options: lambda sample: float(options[ShortOptions].limit)}\n"
    )
    install("rl-reward-short", {"short_plugin": source})
    default = resolve_all(references(files, reward="short"), Options())
    assert reward_of(default, Sample(0, 0, 0, "", [])) == 7.0
    import short_plugin

    given = resolve_all(references(files, reward="short"), Options([short_plugin.ShortOptions(limit=9)]))
    assert reward_of(given, Sample(0, 0, 0, "", [])) == 9.0


def test_options_that_nobody_declared_are_named() -> None:
    with pytest.raises(KeyError, match="LengthOptions; return it from the hook slimrl_options"):
        Options()[LengthOptions]
    assert Options([LengthOptions(3)])[LengthOptions].length_limit == 3


def test_modules_next_to_the_command_are_found(files: Path, monkeypatch) -> None:
    (files / "reward_module_of_mine.py").write_text(REWARD)
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = PluginReferences.from_config(RolloutConfig(custom_rm_path="reward_module_of_mine:score"), GrpoConfig())
    plugins = resolve_all(replace(references(files), rewards=found.rewards, search_path=found.search_path), Options())
    assert plugins.rewards.default[0].resolved.file == files / "reward_module_of_mine.py"


def test_evaluation_sets_may_have_generators_of_their_own(files: Path) -> None:
    (files / "own.py").write_text("async def generate(sample, sampling, engine):\n    return sample\n")
    own = (("a", f"{files}/own.py:generate"), ("b", f"{files}/own.py:generate"), ("c", "single_turn"))
    plugins = resolve_all(replace(references(files), set_generators=own), Options())
    assert plugins.generate_for("a") is plugins.generate_for("b")
    assert plugins.generate_for("a") is not plugins.generate
    assert plugins.generate_for("c") is plugins.generate_for("one without") is plugins.generate
    rows = [(row["kind"], row["name"]) for row in plugins.lock()]
    assert rows.count(("generator", "single_turn")) == rows.count(("generator", "generate")) == 1
    assert plugins.fingerprint != resolve_all(references(files), Options()).fingerprint
    wrong = replace(references(files, generator="single_trun"), set_generators=(("a", "tool_us"),))
    with pytest.raises(PluginError) as caught:
        resolve_all(wrong, Options())
    assert len(caught.value.problems) == 2
    assert caught.value.problems[1].startswith("evaluation set 'a': ")
