"""The prefix `boxed_`: any reward, shown only the last box of the reply."""

from __future__ import annotations

import asyncio

import pytest

from slimrl import Sample, registry
from slimrl.errors import PluginError
from slimrl.registry import Options, is_async_callable
from slimrl.traits import traits_of

SOURCE = """
from slimrl import hookimpl, reward_traits
def make_echo(options):
    @reward_traits(pure=True, timeout_s=7)
    def echo(sample):
        return {"saw": sample.response, "label": sample.label}
    return echo
def make_waiting(options):
    async def waiting(sample):
        return sample.response
    return waiting
def make_group(options):
    @reward_traits(group=True)
    def whole(samples):
        return [sample.response for sample in samples]
    return whole
def make_exact(options):
    return lambda sample: "itself"
@hookimpl
def slimrl_offer_rewards():
    return {"echo": make_echo, "waiting": make_waiting, "whole": make_group, "exact": make_echo,
            "boxed_exact": make_exact}
"""


def sample(response: str) -> Sample:
    return Sample(0, 0, 0, "prompt", [1], label="7", response=response)


@pytest.fixture
def plugins(install) -> registry.Registry:
    install("rl-reward-echo", {"echo_plugin": SOURCE})
    return registry.load(warn=False)


def problem(plugins: registry.Registry, reference: str) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.resolve("reward", reference)
    return str(caught.value)


@pytest.mark.parametrize("reference", ["boxed_echo", "rl-reward-echo/boxed_echo"])
def test_the_reward_sees_the_last_box(plugins, reference: str) -> None:
    found = plugins.resolve("reward", reference)
    assert (found.reference, found.name) == ("rl-reward-echo/boxed_echo", "boxed_echo")
    given = sample(r"\boxed{1} so \boxed{\frac{1}{2}}")
    assert found.make(Options())(given) == {"saw": r"\frac{1}{2}", "label": "7"}
    assert given.response.startswith(r"\boxed{1}")


@pytest.mark.parametrize("response", ["no box", r"\boxed{1} and \boxed{open", ""])
def test_without_a_box_it_sees_nothing(plugins, response: str) -> None:
    assert plugins.resolve("reward", "boxed_echo").make(Options())(sample(response))["saw"] == ""


def test_traits_and_async_stay(plugins) -> None:
    echo = plugins.resolve("reward", "boxed_echo").make(Options())
    assert (traits_of(echo).pure, traits_of(echo).timeout_s) == (True, 7)
    waiting = plugins.resolve("reward", "boxed_waiting").make(Options())
    assert is_async_callable(waiting)
    assert asyncio.run(waiting(sample(r"\boxed{3}"))) == "3"


def test_a_reward_of_groups_sees_every_samples_box(plugins) -> None:
    whole = plugins.resolve("reward", "boxed_whole").make(Options())
    assert traits_of(whole).group
    assert whole([sample(r"\boxed{1}"), sample("2")]) == ["1", ""]


def test_a_name_that_is_offered_goes_before_the_prefix(plugins) -> None:
    assert plugins.resolve("reward", "boxed_exact").make(Options())(sample("")) == "itself"
    assert plugins.resolve("reward", "boxed_boxed_exact").make(Options())(sample("")) == "itself"


def test_the_prefix_comes_off_once(plugins) -> None:
    assert "there is no reward 'boxed_boxed_echo'" in problem(plugins, "boxed_boxed_echo")
    assert "there is no reward 'boxed_'" in problem(plugins, "boxed_")
    assert "did you mean 'boxed_echo'?" in problem(plugins, "boxed_ecko")


def test_only_rewards_have_the_prefix(plugins) -> None:
    with pytest.raises(PluginError, match="no buffer filter 'boxed_pop_first'"):
        plugins.resolve("buffer_filter", "boxed_pop_first")


def test_a_conflict_behind_the_prefix_names_what_to_write(plugins, install, reward_plugin) -> None:
    install("rl-reward-other", {"other_plugin": reward_plugin("echo")})
    said = problem(registry.load(warn=False), "boxed_echo")
    assert "write rl-reward-echo/boxed_echo or rl-reward-other/boxed_echo" in said


def test_its_reference_resolves_where_only_its_entry_point_is_loaded(plugins) -> None:
    found = plugins.resolve("reward", "boxed_echo")
    again = registry.load([found.entry_point]).resolve("reward", found.reference)
    assert (again.reference, again.file_hash) == (found.reference, found.file_hash)
    assert again.make(Options())(sample(r"\boxed{9}"))["saw"] == "9"
