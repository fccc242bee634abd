from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slimrl import Sample
from slimrl.errors import PluginError
from slimrl.testing import make_sample, resolve, score


def share(sample: Sample) -> dict[str, float]:
    return {"length": float(len(sample.response)), "label": float(sample.label)}


def test_a_reward_is_scored_by_name_by_path_and_as_a_function(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("def score(sample):\n    return len(sample.response)\n")
    assert score("math", r"\boxed{7}", "7").value == 1.0
    assert score(f"{tmp_path}/mine.py:score", "1234").value == 4.0
    assert score(lambda sample: 0.5, make_sample("x")).value == 0.5


def test_what_it_raises_is_an_error_outcome() -> None:
    def broken(sample: Sample) -> float:
        raise ValueError("no number")

    outcome = score(broken, "x")
    assert (outcome.status, outcome.value) == ("error", None)
    assert "the reward raised ValueError: no number" in outcome.reason


def test_a_key_picks_among_components() -> None:
    outcome = score(share, "abc", 7, reward_key="length")
    assert (outcome.value, outcome.components) == (3.0, {"length": 3.0, "label": 7.0})


def test_an_async_reward_is_waited_for_also_in_an_async_test() -> None:
    async def later(sample: Sample) -> float:
        await asyncio.sleep(0)
        return 2.0

    async def in_a_loop() -> float | None:
        return score(later, "x").value

    assert score(later, "x").value == 2.0
    assert asyncio.run(in_a_loop()) == 2.0


def test_options_replace_their_defaults(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        "rl-reward-cap",
        {
            "cap_reward": "from dataclasses import dataclass\nfrom slimrl import hookimpl\n"
            "@dataclass(frozen=True)\nclass CapOptions:\n    cap_at: int = 3\n"
            "def make(options):\n    return lambda sample: min(len(sample.response), options[CapOptions].cap_at)\n"
            "@hookimpl\ndef slimrl_offer_rewards():\n    return {'cap': make}\n"
            "@hookimpl\ndef slimrl_options():\n    return [CapOptions]\n"
        },
    )
    import cap_reward  # type: ignore[import-not-found]  # installed for this test

    assert score("cap", "12345").value == 3.0
    assert score("cap", "12345", options=(cap_reward.CapOptions(cap_at=4),)).value == 4.0


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(PluginError, match="there is no kind 'rewards'"):
        resolve("rewards", "math")  # type: ignore[arg-type]  # what is tested
