"""Settings of on-policy distillation: what goes together, and slime's spelling of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl.config import Config, GrpoConfig
from slimrl.config.check import check
from slimrl.config.distillation import SLIME_POST_PROCESS, SLIME_REWARD, as_distillation, teacher_address
from slimrl.config.estimator import check_estimator
from slimrl.traits import AdvantageTraits

Make = Callable[..., Config]
URL = "http://127.0.0.1:30000"


def behind(**settings: Any) -> GrpoConfig:
    return GrpoConfig(**{"use_opd": True, "opd_type": "sglang", "opd_teacher_url": URL, **settings})


@pytest.mark.parametrize(
    ("grpo", "said"),
    [
        (GrpoConfig(opd_type="sglang"), "--opd-type sglang has no effect without --use-opd"),
        (GrpoConfig(opd_kl_coef=2.0), "--opd-kl-coef 2.0 has no effect without --use-opd"),
        (GrpoConfig(opd_teacher_load=Path("t")), "--opd-teacher-load t has no effect without --use-opd"),
        (GrpoConfig(use_opd=True), "--use-opd needs --opd-type"),
        (behind(opd_teacher_url=None), "--opd-type sglang needs --opd-teacher-url"),
        (behind(opd_teacher_url="127.0.0.1:30000"), "--opd-teacher-url 127.0.0.1:30000 is no address"),
        (behind(opd_teacher_url="http://host:port"), "--opd-teacher-url http://host:port is no address"),
        (behind(opd_teacher_url="http://me:pw@host:1"), "--opd-teacher-url http://me:pw@host:1 is no address"),
        (behind(opd_teacher_url="http://host:1?key=1"), "--opd-teacher-url http://host:1?key=1 is no address"),
        (behind(opd_teacher_load=Path("t")), "--opd-teacher-load t has no effect with --opd-type sglang"),
        (behind(opd_teacher_ckpt_step=3), "--opd-teacher-ckpt-step 3 has no effect with --opd-type sglang"),
        (behind(opd_kl_coef=0.0), "--opd-kl-coef must be more than 0; got 0.0"),
        (GrpoConfig(use_opd=True, opd_type="megatron"), "--opd-type megatron needs --opd-teacher-load"),
        (
            GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=Path("nowhere")),
            "--opd-teacher-load nowhere is not a folder",
        ),
        (
            GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=Path("/"), opd_teacher_url=URL),
            f"--opd-teacher-url {URL} has no effect with --opd-type megatron",
        ),
    ],
)
def test_a_teacher_is_named_in_one_way_or_refused(make_config: Make, grpo: GrpoConfig, said: str) -> None:
    (found,) = check(make_config(grpo=grpo))
    assert found.startswith(said)


def test_an_engines_teacher_needs_temperature_one_and_one_in_the_trainer_does_not(make_config: Make) -> None:
    (found,) = check(make_config(grpo=behind(), rollout_temperature=0.8))
    assert found.startswith("--rollout-temperature 0.8 cannot be used with --opd-type sglang")
    inside = GrpoConfig(use_opd=True, opd_type="megatron", opd_teacher_load=Path("/"))
    assert check(make_config(grpo=inside, rollout_temperature=0.8)) == []


def test_distillation_is_refused_with_fine_tuning(make_config: Make) -> None:
    found = check(make_config(grpo=behind(loss_type="sft_loss"), rollout_function_path="sft", apply_chat_template=True))
    assert "--use-opd has no effect with --loss-type sft_loss" in found


def test_a_group_of_one_learns_from_a_teacher(make_config: Make) -> None:
    config = make_config(grpo=behind(), n_samples_per_prompt=1)
    assert list(check_estimator(config, AdvantageTraits(heeds=frozenset()))) == []


def test_slimes_functions_of_distillation_are_slimrls_own(make_config: Make) -> None:
    said = make_config(
        grpo=behind(opd_teacher_url=None),
        rm_type=None,
        custom_rm_path=SLIME_REWARD,
        custom_reward_post_process_path=SLIME_POST_PROCESS,
        rm_url=f"{URL}/generate",
    )
    config, origins = as_distillation(said, {"rm_url": "flag"})
    assert check(config) == []
    assert config.grpo.opd_teacher_url is not None
    assert teacher_address(config.grpo.opd_teacher_url) == URL
    assert (config.rollout.custom_rm_path, config.rollout.rm_url) == (None, None)
    assert origins == {"rm_url": "flag", "opd_teacher_url": "flag"}
    assert as_distillation(config, {}) == (config, {})
