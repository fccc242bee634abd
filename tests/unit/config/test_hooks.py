"""Functions of a run and the settings that they leave without effect, or cannot be used with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slimrl.config import Config, EvalConfig, GrpoConfig
from slimrl.config.check import check
from slimrl.config.estimator import check_estimator
from slimrl.config.hooks import check_hooks
from slimrl.traits import AdvantageTraits

Make = Callable[..., Config]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rollout_function_path": "a.py:f", "train_async": True}, "--async cannot be used with"),
        ({"rollout_function_path": "a.py:f", "partial_rollout": True}, "--partial-rollout has no effect with"),
        ({"rollout_function_path": "a.py:f", "max_sampling_rounds": 3}, "--max-sampling-rounds has no effect with"),
        ({"data_source_path": "a.py:f", "num_epoch": 2}, "--num-epoch 2 cannot be counted with"),
        ({"data_source_path": "a.py:f", "skip_bad_rows": True}, "--skip-bad-rows has no effect with"),
        (
            {"custom_reward_post_process_path": "a.py:f", "grpo": GrpoConfig(kl_coef=0.1)},
            "--kl-coef has no effect with",
        ),
        ({"grpo": GrpoConfig(custom_loss_function_path="a.py:f")}, "--custom-loss-function-path a.py:f has no effect"),
        ({"grpo": GrpoConfig(custom_tis_function_path="a.py:f")}, "--custom-tis-function-path a.py:f has no effect"),
        (
            {"grpo": GrpoConfig(use_tis=True, tis_clip=3.0, custom_tis_function_path="a.py:f")},
            "--tis-clip has no effect with --custom-tis-function-path",
        ),
        (
            {
                "custom_reward_post_process_path": "b.py:f",
                "grpo": GrpoConfig(custom_advantage_function_path="a.py:f"),
            },
            "--custom-advantage-function-path a.py:f has no effect with --custom-reward-post-process-path",
        ),
    ],
)
def test_a_setting_that_a_function_leaves_without_effect_is_refused(
    make_config: Make, settings: dict[str, Any], said: str
) -> None:
    (found,) = check_hooks(make_config(**settings))
    assert found.startswith(said)
    assert "a.py:f" in found


def test_an_estimator_that_only_estimates_is_refused_beside_a_reward_post_process(make_config: Make) -> None:
    grpo = GrpoConfig(advantage_estimator="mine")
    config = make_config(custom_reward_post_process_path="a.py:f", grpo=grpo)
    (said,) = check_estimator(config, AdvantageTraits())
    assert said.startswith("--advantage-estimator mine has no effect with --custom-reward-post-process-path a.py:f")
    assert list(check_estimator(config, AdvantageTraits(policy_loss="cispo"))) == []


def test_a_custom_loss_needs_its_function_and_no_setting_of_the_policy_loss(make_config: Make) -> None:
    (said,) = check_hooks(make_config(grpo=GrpoConfig(loss_type="custom_loss")))
    assert said.startswith("--loss-type custom_loss needs --custom-loss-function-path")
    grpo = GrpoConfig(loss_type="custom_loss", custom_loss_function_path="a.py:f", eps_clip=0.1)
    (said,) = check_hooks(make_config(grpo=grpo))
    assert said == "--eps-clip has no effect with --loss-type custom_loss, whose function is the loss"
    grpo = GrpoConfig(loss_type="custom_loss", custom_loss_function_path="a.py:f", use_kl_loss=True, kl_loss_type="k3")
    (said,) = check_hooks(make_config(grpo=grpo))
    assert said.startswith("--kl-loss-type has no effect with --loss-type custom_loss")
    grpo = GrpoConfig(
        loss_type="custom_loss", custom_loss_function_path="a.py:f", custom_pg_loss_reducer_function_path="b.py:f"
    )
    (said,) = check_hooks(make_config(grpo=grpo))
    assert said.startswith("--custom-pg-loss-reducer-function-path has no effect with --loss-type custom_loss")


def test_a_reducer_is_refused_beside_an_estimator_that_has_its_own_divisor(make_config: Make) -> None:
    config = make_config(grpo=GrpoConfig(advantage_estimator="dr_grpo", custom_pg_loss_reducer_function_path="a.py:f"))
    (said,) = check_estimator(config, AdvantageTraits(divides_by_max_length=True))
    assert said.startswith("--advantage-estimator dr_grpo divides every rollout's loss by --rollout-max-response-len")
    assert list(check_estimator(config, AdvantageTraits())) == []


def test_an_advantage_function_makes_another_estimator_pointless(make_config: Make) -> None:
    config = make_config(grpo=GrpoConfig(advantage_estimator="rloo", custom_advantage_function_path="a.py:f"))
    (said,) = check_estimator(config, AdvantageTraits())
    assert said.startswith("--advantage-estimator rloo has no effect with --custom-advantage-function-path a.py:f")


NO_COMPARISON = {"disable_grpo_std_normalization": True}


@pytest.mark.parametrize(
    ("settings", "grpo", "slimes", "said"),
    [
        (
            {},
            {"custom_advantage_function_path": "a.py:f", **NO_COMPARISON},
            (),
            "--disable-grpo-std-normalization has no effect with --custom-advantage-function-path a.py:f",
        ),
        (
            {},
            {"custom_advantage_function_path": "a.py:f", "gamma": 0.9},
            (),
            "--gamma has no effect with --custom-advantage-function-path a.py:f",
        ),
        (
            {"custom_convert_samples_to_train_data_path": "a.py:f"},
            NO_COMPARISON,
            ("train_data_converter",),
            "--disable-grpo-std-normalization has no effect with --custom-convert-samples-to-train-data-path a.py:f",
        ),
        (
            {"custom_convert_samples_to_train_data_path": "a.py:f"},
            {"kl_coef": 0.1},
            ("train_data_converter",),
            "--kl-coef has no effect with --custom-convert-samples-to-train-data-path a.py:f",
        ),
        (
            {"custom_convert_samples_to_train_data_path": "a.py:f"},
            {"advantage_estimator": "rloo"},
            ("train_data_converter",),
            "--advantage-estimator rloo has no effect with --custom-convert-samples-to-train-data-path a.py:f",
        ),
        (
            {"custom_convert_samples_to_train_data_path": "a.py:f"},
            {"custom_advantage_function_path": "b.py:f"},
            ("train_data_converter",),
            "--custom-advantage-function-path b.py:f has no effect with --custom-convert-samples-to-train-data-path",
        ),
        (
            {"custom_convert_samples_to_train_data_path": "a.py:f", "custom_reward_post_process_path": "b.py:f"},
            {},
            ("train_data_converter",),
            "--custom-reward-post-process-path b.py:f has no effect with --custom-convert-samples-to-train-data-path",
        ),
        (
            {"n_samples_per_prompt": 1},
            {"custom_advantage_function_path": "a.py:f"},
            ("custom_advantage",),
            "--n-samples-per-prompt 1 with --custom-advantage-function-path a.py:f trains nothing",
        ),
    ],
)
def test_what_a_function_of_one_shape_leaves_without_effect_is_refused(
    make_config: Make, settings: dict[str, Any], grpo: dict[str, Any], slimes: tuple[str, ...], said: str
) -> None:
    """What has an effect beside a function of slime's shape may have none beside one of ours, and the other way."""
    config = make_config(grpo=GrpoConfig(**grpo), **settings)
    traits = AdvantageTraits(heeds=frozenset({"disable_grpo_std_normalization", "kl_coef", "gamma"}))
    (found,) = check_estimator(config, traits, slimes)
    assert found.startswith(said)
    others = {"custom_advantage", "train_data_converter"} - {*slimes}
    assert list(check_estimator(config, traits, others)) == []


def test_prompts_of_a_data_source_need_no_file(make_config: Make) -> None:
    assert any("--prompt-data is required" in said for said in check(make_config(prompt_data=())))
    said = check(make_config(prompt_data=(), data_source_path="a.py:f"))
    assert not any("--prompt-data" in one for one in said)


def test_an_evaluation_function_needs_no_sets(make_config: Make) -> None:
    def said(**settings: Any) -> list[str]:
        return [one for one in check(make_config(eval=EvalConfig(**settings))) if "eval" in one]

    assert said(eval_interval=1) == [
        "--eval-interval needs --eval-prompt-data: pairs of a name and a path (or --eval-config FILE)"
    ]
    assert said(eval_interval=1, eval_function_path="a.py:f") == []
    assert said(eval_function_path="a.py:f") == ["--eval-function-path has no effect without --eval-interval"]
