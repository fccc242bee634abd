"""The teacher of --opd-type megatron: which checkpoint it is, and whether the policy's model can hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from slimrl.checkpoints import find_start
from slimrl.config import Config
from slimrl.config.hf_folder import open_hf_folder
from slimrl.errors import CheckpointError, ConfigError
from slimrl.megatron.shape import ModelShape, model_shape

FLAG: Final = "--opd-teacher-load"
WITHOUT_EFFECT: Final = ("max_positions",)
"""What two models may differ in and still compute the same with the same weights."""


def with_teacher(config: Config, hf_config: Mapping[str, Any]) -> Config:
    """The configuration with the teacher's checkpoint chosen, for the policy that a HF config describes.

    Raises UsageError where there is no such checkpoint or it is of another shape.
    """
    grpo = config.grpo
    if grpo.opd_teacher_load is None or not grpo.opd_teacher_load.is_dir():
        return config  # none, or reported with the files
    found = _checkpoint(grpo.opd_teacher_load, grpo.opd_teacher_ckpt_step)
    if (found / "adapter").is_dir():
        raise CheckpointError(
            f"{FLAG} {found} holds adapters alone; merge them into their model with PEFT's merge_and_unload"
        )
    model = open_hf_folder(found / "model" if (found / "model").is_dir() else found, FLAG)
    try:
        differing = list(_differences(model_shape(hf_config), model_shape(model.config)))
    except ConfigError as error:
        raise ConfigError([f"{FLAG} {found}: {problem}" for problem in error.problems]) from error
    if differing:
        raise ConfigError(
            f"{FLAG} {found} is a model of another shape than the policy: {', '.join(differing)}; the trainer holds a "
            "teacher as other weights of the policy's model. Serve it (`slimrl serve`, or SGLang) and give --opd-type "
            "sglang --opd-teacher-url URL"
        )
    return replace(config, grpo=replace(grpo, opd_teacher_load=found, opd_teacher_ckpt_step=None))


def _checkpoint(folder: Path, step: int | None) -> Path:
    """The checkpoint in a folder; the folder itself where it holds none."""
    try:
        return find_start(folder, step, resume=False).checkpoint or folder
    except CheckpointError as error:
        said = str(error).replace("--ckpt-step", "--opd-teacher-ckpt-step")
        raise CheckpointError(f"{FLAG} {folder}: {said}") from error


def _differences(policy: ModelShape, teacher: ModelShape) -> Iterator[str]:
    for field in fields(policy):
        own, others = getattr(policy, field.name), getattr(teacher, field.name)
        if own != others and field.name not in WITHOUT_EFFECT:
            yield f"{field.name} {_told(others)}, not {_told(own)}"


def _told(value: object) -> str:
    return "none" if value is None else str(value)
