"""Choosing among installed plugins, as pytest and llm let their users do."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from slimrl import registry
from slimrl.cli.plugin_flags import take_plugin_flags
from slimrl.config import GrpoConfig
from slimrl.errors import ConfigError, PluginError
from slimrl.registry import Options, PluginReferences, PluginSelection, RewardReferences, resolve_all


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIMRL_PLUGINS", raising=False)


@pytest.fixture
def two(install, reward_plugin) -> None:
    install("rl-reward-acme", {"acme": reward_plugin("acme_good")})
    install("rl-reward-beta", {"beta": reward_plugin("math"), "gamma": reward_plugin("gamma")})


def names(selection: PluginSelection) -> set[str]:
    return {offer.qualified_name for offer in registry.load(selection=selection, warn=False).catalogue.offers}


def test_flags_are_taken_off_and_the_rest_keeps_its_order() -> None:
    selection, rest = take_plugin_flags(
        ["--lr", "1", "-p", "no:acme", "--rm-type", "math", "-pno:beta", "--disable-plugin-autoload", "-p=gamma"]
    )
    assert selection == PluginSelection(("acme", "beta"), ("gamma",), autoload=False)
    assert rest == ["--lr", "1", "--rm-type", "math"]


def test_a_later_flag_takes_back_an_earlier_one() -> None:
    assert take_plugin_flags(["-p", "no:acme", "-p", "acme"])[0] == PluginSelection(only=("acme",))
    assert take_plugin_flags(["-p", "acme", "-p", "no:acme"])[0] == PluginSelection(("acme",))


@pytest.mark.parametrize("argv", [["-p"], ["-p", "--lr"], ["-p", "no:"], ["-p="]])
def test_a_flag_without_a_name_is_refused(argv: list[str]) -> None:
    with pytest.raises((ConfigError, PluginError), match="-p"):
        take_plugin_flags(argv)


def test_the_variable_names_the_only_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMRL_PLUGINS", " a, b ,")
    assert take_plugin_flags([])[0] == PluginSelection(only=("a", "b"), autoload=False)
    monkeypatch.setenv("SLIMRL_PLUGINS", "")
    assert take_plugin_flags(["-p", "no:a"])[0] == PluginSelection(("a",), (), autoload=False)


@pytest.mark.parametrize("name", ["acme", "rl-reward-acme", "RL_Reward.acme", "rl-reward-acme/acme"])
def test_a_plugin_is_left_out_by_entry_point_distribution_or_both(two, name: str) -> None:
    assert "rl-reward-acme/acme_good" in names(PluginSelection())
    assert "rl-reward-acme/acme_good" not in names(PluginSelection((name,)))


@pytest.mark.parametrize("name", ["gamma", "rl-reward-beta/gamma"])
def test_one_offered_name_is_left_out_alone(two, name: str) -> None:
    assert {n for n in names(PluginSelection((name,))) if "beta" in n} == {"rl-reward-beta/math"}


def test_a_disabled_plugin_is_not_imported(install) -> None:
    install("rl-reward-acme", {"acme": "raise SystemError('imported')\n"})
    catalogue = registry.load(selection=PluginSelection(("acme",)), warn=False).catalogue
    assert catalogue.broken == ()
    assert [d.origin.entry_point for d in catalogue.disabled] == ["acme"]


def test_without_autoload_slimrls_own_stay_and_named_ones_are_added(two) -> None:
    found = names(PluginSelection(only=("rl-reward-acme",), autoload=False))
    assert {"slimrl/math", "rl-reward-acme/acme_good"} <= found
    assert not any(name.startswith("rl-reward-beta/") for name in found)
    assert not any(name.startswith("slimrl/") for name in names(PluginSelection(("slimrl",))))


def test_leaving_one_out_settles_a_conflict(two) -> None:
    with pytest.raises(PluginError, match="slimrl/math or rl-reward-beta/math"):
        registry.load(selection=PluginSelection(), warn=False).resolve("reward", "math")
    loaded = registry.load(selection=PluginSelection(("rl-reward-beta/math",)), warn=False)
    assert loaded.resolve("reward", "math").distribution == "slimrl"


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (PluginSelection(("acme",)), "disabled by -p no:acme; leave that out"),
        (PluginSelection(("acme_good",)), "rl-reward-acme/acme_good is disabled by -p no:acme_good"),
        (PluginSelection(autoload=False), "add -p acme"),
    ],
)
def test_a_miss_says_that_the_name_is_disabled_and_how_to_enable_it(two, selection, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.load(selection=selection, warn=False).resolve("reward", "acme_good")
    assert said in str(caught.value).splitlines()[0]


def test_a_disabled_name_that_matches_nothing_is_a_warning_with_a_suggestion(two, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        registry.load(selection=PluginSelection(("acmee", "gamma", "beta")))
    said = [r.getMessage() for r in caplog.records if "matches no installed plugin" in r.getMessage()]
    assert said == ["-p no:acmee matches no installed plugin; did you mean acme?"]


def test_a_plugin_that_was_asked_for_must_be_there_and_load(two, install) -> None:
    install("rl-reward-bad", {"bad": "import a_module_that_is_not_there\n"})
    with pytest.raises(PluginError) as caught:
        registry.load(selection=PluginSelection(only=("acmee", "bad")), warn=False)
    missing, broken = sorted(caught.value.problems)
    assert "-p acmee" in missing
    assert "did you mean acme?" in missing
    assert "plugin bad (rl-reward-bad 1.2, bad) was asked for and cannot be loaded: ModuleNotFoundError" in broken


def test_the_selection_travels_with_the_references(two) -> None:
    references = PluginReferences(RewardReferences.one("math"), selection=PluginSelection(("beta",)))
    plugins = resolve_all(references, Options([GrpoConfig()]))
    again = resolve_all(plugins.references, plugins.options, expected_fingerprint=plugins.fingerprint)
    assert again.rewards.default[0].resolved.distribution == "slimrl"
    with pytest.raises(PluginError, match="is offered by"):
        resolve_all(replace(references, selection=PluginSelection()), Options([GrpoConfig()]))
