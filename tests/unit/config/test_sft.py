"""What --loss-type sft_loss makes of a configuration, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slimrl.config import Config, EvalConfig, GrpoConfig, OptimizerConfig, RolloutConfig, SglangConfig
from slimrl.config.check import check
from slimrl.config.sft import SLIME_SFT, as_sft

Make = Callable[..., Config]


def sft(
    make_config: Make, grpo: GrpoConfig | None = None, rollout: dict[str, Any] | None = None, **groups: Any
) -> Config:
    made = make_config(grpo=grpo or GrpoConfig(loss_type="sft_loss"), **groups)
    plain = {"rm_type": None, "custom_rm_path": None, "n_samples_per_prompt": 1, "rollout_max_response_len": None}
    plain |= {"label_key": None, "global_batch_size": None, "num_steps_per_rollout": None}
    return as_sft(replace(made, rollout=replace(made.rollout, **{**plain, **(rollout or {})})), {})[0]


def test_fine_tuning_needs_neither_reward_nor_response_length(make_config: Make) -> None:
    assert check(sft(make_config)) == []


def test_a_conversation_has_no_advantage_and_that_may_be_said(make_config: Make) -> None:
    grpo = GrpoConfig(loss_type="sft_loss", disable_compute_advantages_and_returns=True)
    assert check(sft(make_config, grpo)) == []


def test_fine_tuning_renders_rows_with_the_chat_template() -> None:
    config, origins = as_sft(Config(grpo=GrpoConfig(loss_type="sft_loss")), {"apply_chat_template": "default"})
    assert config.rollout.apply_chat_template
    assert origins == {"apply_chat_template": "derived", "rollout_function_path": "derived"}


def test_slimes_rollout_function_is_ours() -> None:
    rollout = RolloutConfig(rollout_function_path=SLIME_SFT)
    config, _ = as_sft(Config(rollout=rollout, grpo=GrpoConfig(loss_type="sft_loss")), {})
    assert config.rollout.rollout_function_path == "sft"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"rm_type": "math"}}, "--rm-type has no effect with --loss-type sft_loss"),
        ({"rollout": {"rollout_temperature": 0.5}}, "--rollout-temperature has no effect with --loss-type sft_loss"),
        ({"rollout": {"rollout_max_response_len": 9}}, "--rollout-max-response-len has no effect"),
        ({"rollout": {"n_samples_per_prompt": 2}}, "--n-samples-per-prompt 2 with --loss-type sft_loss would train"),
        (
            {"rollout": {"rollout_function_path": "my.py:fill"}},
            "--rollout-function-path my.py:fill cannot be used with",
        ),
        (
            {"grpo": GrpoConfig(loss_type="sft_loss", eps_clip=0.1)},
            "--eps-clip has no effect with --loss-type sft_loss",
        ),
        ({"sglang": SglangConfig(sglang_server_concurrency=3)}, "--sglang-server-concurrency has no effect with"),
        ({"eval": EvalConfig(eval_interval=1)}, "--eval-interval needs an engine"),
        ({"optimizer": OptimizerConfig(critic_lr=1.0)}, "--critic-lr 1.0 has no effect with --loss-type sft_loss"),
        (
            {"grpo": GrpoConfig(), "rollout": {"rollout_function_path": SLIME_SFT}},
            "--rollout-function-path sft needs --loss-type sft_loss",
        ),
    ],
)
def test_what_fine_tuning_has_no_use_for_is_refused(make_config: Make, changes: dict[str, Any], said: str) -> None:
    assert any(problem.startswith(said) for problem in check(sft(make_config, **changes)))
