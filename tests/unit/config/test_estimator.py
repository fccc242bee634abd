"""Settings of advantage estimators that the chosen one does not heed are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from slimrl.config import CkptConfig, Config, GrpoConfig, OptimizerConfig
from slimrl.config.estimator import CRITIC_SETTINGS, SETTINGS, check_estimator
from slimrl.traits import AdvantageTraits

Make = Callable[..., Config]


def test_an_estimator_that_compares_a_group_refuses_a_group_of_one(make_config: Make) -> None:
    (said,) = check_estimator(make_config(n_samples_per_prompt=1), AdvantageTraits())
    assert "trains nothing" in said
    assert "--n-samples-per-prompt 2 or more" in said
    assert list(check_estimator(make_config(n_samples_per_prompt=1), AdvantageTraits(compares_group=False))) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("kl_coef", 0.1), ("gamma", 0.9), ("lambd", 0.9)),
        *(("disable_grpo_std_normalization", True), ("disable_rewards_normalization", True)),
    ],
)
def test_a_setting_that_the_estimator_does_not_heed_is_refused(make_config: Make, setting: str, value: Any) -> None:
    config = make_config(grpo=GrpoConfig(**{setting: value}))
    (said,) = check_estimator(config, AdvantageTraits(heeds=frozenset(SETTINGS) - {setting}))
    assert f"--{setting.replace('_', '-')}" in said
    assert "has no effect with --advantage-estimator grpo" in said
    assert list(check_estimator(config, AdvantageTraits(heeds=frozenset({setting})))) == []


@pytest.mark.parametrize("setting", CRITIC_SETTINGS)
def test_a_setting_of_the_critic_is_refused_without_one(make_config: Make, setting: str) -> None:
    groups = {"grpo": GrpoConfig, "optimizer": OptimizerConfig, "ckpt": CkptConfig}
    category = next(name for name, kind in groups.items() if setting in {field.name for field in fields(kind)})
    config = make_config()
    config = replace(config, **{category: replace(getattr(config, category), **{setting: 3})})
    (said,) = check_estimator(config, AdvantageTraits())
    assert f"--{setting.replace('_', '-')} 3 has no effect with --advantage-estimator grpo" in said
    assert list(check_estimator(config, AdvantageTraits(needs_values=True))) == []


def test_what_leaves_a_critic_nothing_to_learn_is_refused(make_config: Make) -> None:
    config = make_config(custom_convert_samples_to_train_data_path="mine.py:f")
    (said,) = check_estimator(config, AdvantageTraits(needs_values=True))
    assert "--custom-convert-samples-to-train-data-path mine.py:f, whose rewards are the advantages" in said


def test_the_rate_at_the_end_is_not_above_the_critics(make_config: Make) -> None:
    decaying = OptimizerConfig(lr=1e-3, critic_lr=1e-5, min_lr=1e-4, lr_decay_style="cosine")
    (said,) = check_estimator(make_config(optimizer=decaying), AdvantageTraits(needs_values=True))
    assert said == "--min-lr 0.0001 must not be above --critic-lr 1e-05"


def test_an_estimator_may_ask_for_normalised_advantages(make_config: Make) -> None:
    traits = AdvantageTraits(needs_normalization=True)
    assert list(check_estimator(make_config(), traits)) == ["--advantage-estimator grpo needs --normalize-advantages"]
    assert list(check_estimator(make_config(grpo=GrpoConfig(normalize_advantages=True)), traits)) == []


def test_rewards_that_are_not_compared_are_not_divided_either(make_config: Make) -> None:
    grpo = GrpoConfig(disable_rewards_normalization=True, disable_grpo_std_normalization=True)
    (said,) = check_estimator(make_config(grpo=grpo), AdvantageTraits(heeds=frozenset(SETTINGS)))
    assert said.startswith("--disable-grpo-std-normalization has no effect with --disable-rewards-normalization")


def without(**settings: Any) -> GrpoConfig:
    return GrpoConfig(disable_compute_advantages_and_returns=True, **settings)


def test_no_advantages_are_for_a_loss_that_reads_none_or_a_function_that_sets_them(make_config: Make) -> None:
    (said,) = check_estimator(make_config(grpo=without()), AdvantageTraits())
    assert said.startswith("--disable-compute-advantages-and-returns trains nothing with --loss-type policy_loss")
    custom = make_config(grpo=without(loss_type="custom_loss"), n_samples_per_prompt=1)
    assert list(check_estimator(custom, AdvantageTraits())) == []
    set_later = {"rollout_data_postprocess_path": "a.py:f"}
    assert list(check_estimator(make_config(grpo=without(), **set_later), AdvantageTraits())) == []
    gspo = make_config(grpo=without(advantage_estimator="gspo"), **set_later)
    assert list(check_estimator(gspo, AdvantageTraits(policy_loss="gspo"))) == []


@pytest.mark.parametrize(
    ("settings", "traits", "said"),
    [
        ({"normalize_advantages": True}, AdvantageTraits(), "--normalize-advantages cannot be used with"),
        ({"use_opd": True}, AdvantageTraits(), "--use-opd cannot be used with"),
        (
            {"custom_advantage_function_path": "b.py:f"},
            AdvantageTraits(),
            "--custom-advantage-function-path b.py:f cannot be used with",
        ),
        ({"advantage_estimator": "rloo"}, AdvantageTraits(), "--advantage-estimator rloo has no effect with"),
        ({}, AdvantageTraits(needs_values=True), "--advantage-estimator grpo has no effect with"),
    ],
)
def test_what_makes_advantages_is_refused_where_none_are_made(
    make_config: Make, settings: dict[str, Any], traits: AdvantageTraits, said: str
) -> None:
    (found,) = check_estimator(make_config(grpo=without(loss_type="custom_loss", **settings)), traits)
    assert found.startswith(f"{said} --disable-compute-advantages-and-returns")
