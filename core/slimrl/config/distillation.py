"""On-policy distillation: what --use-opd makes of a configuration, and what does not go together with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from slimrl.config import Config, GrpoConfig, RolloutConfig

SLIME_REWARD: Final = "slime.rollout.on_policy_distillation.reward_func"
SLIME_POST_PROCESS: Final = "slime.rollout.on_policy_distillation.post_process_rewards"
"""slime's names of the two functions that ask a teacher behind an engine; slimrl does that itself."""
OWN: Final = ("opd_type", "opd_kl_coef", "opd_teacher_url", "opd_teacher_load", "opd_teacher_ckpt_step")


def as_distillation(config: Config, origins: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
    """The configuration with slime's way to name a teacher's engine read as slimrl's; any other as it is."""
    rollout, grpo, found = config.rollout, config.grpo, dict(origins)
    if not (grpo.use_opd and grpo.opd_type == "sglang"):
        return config, found
    if rollout.custom_rm_path == SLIME_REWARD:
        if grpo.opd_teacher_url is None and rollout.rm_url is not None:
            grpo, rollout = replace(grpo, opd_teacher_url=rollout.rm_url), replace(rollout, rm_url=None)
            found["opd_teacher_url"] = found.get("rm_url", "default")
        rollout = replace(rollout, custom_rm_path=None)
    if rollout.custom_reward_post_process_path == SLIME_POST_PROCESS:
        rollout = replace(rollout, custom_reward_post_process_path=None)
    return replace(config, rollout=rollout, grpo=grpo), found


def teacher_address(url: str) -> str:
    """The server of --opd-teacher-url; slime's users write the path of the one call behind it."""
    return url.rstrip("/").removesuffix("/generate")


def check_distillation(config: Config) -> Iterator[str]:
    """Every broken rule, one sentence each."""
    grpo, defaults = config.grpo, GrpoConfig()
    if not grpo.use_opd:
        for name in OWN:
            value = getattr(grpo, name)
            if value != getattr(defaults, name):
                yield f"--{name.replace('_', '-')} {value} has no effect without --use-opd"
        return
    if grpo.loss_type == "sft_loss":
        return  # refused with the other settings that it has no use for
    match grpo.opd_type:
        case None:
            yield (
                "--use-opd needs --opd-type: sglang for a teacher behind an engine (--opd-teacher-url), megatron for "
                "weights in the trainer (--opd-teacher-load)"
            )
        case "sglang":
            yield from _behind_an_engine(grpo, config.rollout)
        case "megatron":
            yield from _in_the_trainer(grpo)


def _behind_an_engine(grpo: GrpoConfig, rollout: RolloutConfig) -> Iterator[str]:
    for flag, value in (("load", grpo.opd_teacher_load), ("ckpt-step", grpo.opd_teacher_ckpt_step)):
        if value is not None:
            yield (
                f"--opd-teacher-{flag} {value} has no effect with --opd-type sglang, whose teacher is behind "
                "--opd-teacher-url; serve the weights there, or set --opd-type megatron"
            )
    url = grpo.opd_teacher_url
    if url is None:
        yield "--opd-type sglang needs --opd-teacher-url: the address of the teacher's engine, http://HOST:PORT"
    elif not _is_address(url):
        yield f"--opd-teacher-url {url} is no address of an engine; write http://HOST:PORT"
    if rollout.rollout_temperature != 1:
        yield (
            f"--rollout-temperature {rollout.rollout_temperature} cannot be used with --opd-type sglang: an engine tells "
            "the log-probs of given tokens at temperature 1, whatever it is asked; set it to 1, or load the teacher into "
            "the trainer with --opd-type megatron"
        )


def _in_the_trainer(grpo: GrpoConfig) -> Iterator[str]:
    if grpo.opd_teacher_url is not None:
        yield (
            f"--opd-teacher-url {grpo.opd_teacher_url} has no effect with --opd-type megatron, whose teacher is in the "
            "trainer; leave it out, or set --opd-type sglang"
        )
    folder = grpo.opd_teacher_load
    if folder is None:
        yield "--opd-type megatron needs --opd-teacher-load: the folder of the teacher's weights"
    elif not folder.is_dir():
        yield f"--opd-teacher-load {folder} is not a folder; expected a Hugging Face checkpoint or one of slimrl"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # a user, a password or a key in a query would not be sent, and be kept in the run's folder
        is_bare = not (parts.username or parts.password or parts.query or parts.fragment)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and is_bare
    except ValueError:  # a port that is no number
        return False
