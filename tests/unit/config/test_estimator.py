"""Settings of advantage estimators that the chosen one does not heed are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slimrl.config import Config, GrpoConfig
from slimrl.config.estimator import SETTINGS, check_estimator
from slimrl.traits import AdvantageTraits

Make = Callable[..., Config]


def test_an_estimator_that_compares_a_group_refuses_a_group_of_one(make_config: Make) -> None:
    (said,) = check_estimator(make_config(n_samples_per_prompt=1), AdvantageTraits())
    assert "trains nothing" in said
    assert "--n-samples-per-prompt 2 or more" in said
    assert list(check_estimator(make_config(n_samples_per_prompt=1), AdvantageTraits(compares_group=False))) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [("kl_coef", 0.1), ("gamma", 0.9), ("lambd", 0.9), ("disable_grpo_std_normalization", True)],
)
def test_a_setting_that_the_estimator_does_not_heed_is_refused(make_config: Make, setting: str, value: Any) -> None:
    config = make_config(grpo=GrpoConfig(**{setting: value}))
    (said,) = check_estimator(config, AdvantageTraits(heeds=frozenset(SETTINGS) - {setting}))
    assert f"--{setting.replace('_', '-')}" in said
    assert "has no effect with --advantage-estimator grpo" in said
    assert list(check_estimator(config, AdvantageTraits(heeds=frozenset({setting})))) == []


def test_an_estimator_that_needs_a_critic_is_refused(make_config: Make) -> None:
    (said,) = check_estimator(make_config(), AdvantageTraits(needs_values=True))
    assert said.startswith("--advantage-estimator grpo needs a critic's values")


def test_an_estimator_may_ask_for_normalised_advantages(make_config: Make) -> None:
    traits = AdvantageTraits(needs_normalization=True)
    assert list(check_estimator(make_config(), traits)) == ["--advantage-estimator grpo needs --normalize-advantages"]
    assert list(check_estimator(make_config(grpo=GrpoConfig(normalize_advantages=True)), traits)) == []
