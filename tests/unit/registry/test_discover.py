from __future__ import annotations

import logging

import pytest

from slimrl import registry


def broken_reasons(found: registry.Registry) -> dict[str, str]:
    return {plugin.origin.entry_point: plugin.reason for plugin in found.catalogue.broken}


def test_first_party_plugins_are_found_through_entry_points() -> None:
    offered = {(offer.kind, offer.qualified_name) for offer in registry.load(warn=False).catalogue.offers}
    assert {
        ("reward", "slimrl/math"),
        ("dynamic_filter", "slimrl/check_reward_nonzero_std"),
        ("buffer_filter", "slimrl/pop_first"),
        ("generator", "slimrl/single_turn"),
    } <= offered


def test_an_installed_package_offers_a_reward_under_its_own_name(install, reward_plugin) -> None:
    install("rl-reward-short", {"short_reward": reward_plugin("short")})
    found = registry.load(warn=False).resolve("reward", "short")
    assert (found.distribution, found.version, found.entry_point) == ("rl-reward-short", "1.2", "short_reward")


def test_a_plugin_that_cannot_be_imported_is_one_warning_with_its_reason(install, caplog) -> None:
    install("rl-reward-acme", {"acme_broken": "import a_module_that_is_not_there\n"})
    with caplog.at_level(logging.WARNING):
        found = registry.load()
    assert "No module named 'a_module_that_is_not_there'" in broken_reasons(found)["acme_broken"]
    assert [r.getMessage() for r in caplog.records if "acme_broken (rl-reward-acme 1.2" in r.getMessage()]


def test_a_misspelt_hook_is_a_broken_plugin_with_a_suggestion(install) -> None:
    source = "from slimrl import hookimpl\n@hookimpl\ndef slimrl_offer_reward():\n    return {}\n"
    install("rl-reward-typo", {"typo_plugin": source})
    reason = broken_reasons(registry.load(warn=False))["typo_plugin"]
    assert "no hook slimrl_offer_reward; did you mean slimrl_offer_rewards?" in reason


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("['a']", "not a mapping"),
        ("{'a/b': print}", "'a/b'"),
        ("{'a': 3}", "offers 'a' as int"),
        ("{1: print}", "the name 1"),
    ],
)
def test_an_offer_that_breaks_the_contract_is_a_broken_plugin(install, returned: str, said: str) -> None:
    source = f"from slimrl import hookimpl\n@hookimpl\ndef slimrl_offer_rewards():\n    return {returned}\n"
    install("rl-reward-odd", {"odd_plugin": source})
    assert said in broken_reasons(registry.load(warn=False))["odd_plugin"]


def test_one_broken_plugin_leaves_the_others_available(install, reward_plugin) -> None:
    install("rl-reward-mixed", {"mixed_good": reward_plugin("mixed"), "mixed_bad": "raise OSError('no disk')\n"})
    found = registry.load(warn=False)
    assert found.resolve("reward", "mixed").distribution == "rl-reward-mixed"
    assert "OSError: no disk" in broken_reasons(found)["mixed_bad"]


def test_only_the_named_entry_points_are_imported(install, reward_plugin) -> None:
    install("rl-reward-two", {"two_a": reward_plugin("a_reward"), "two_b": "raise SystemError('imported')\n"})
    found = registry.load(["two_a"])
    assert [offer.name for offer in found.catalogue.offers] == ["a_reward"]
    assert found.catalogue.broken == ()
