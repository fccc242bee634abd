"""What is wrong with where checkpoints are read and written."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path

from slimrl.config.ckpt import CkptConfig
from slimrl.config.folders import cannot_be_made
from slimrl.config.megatron_folder import tensors_folder
from slimrl.config.trained import ALL_PARAMETERS, TrainedConfig

WRITTEN = ("config.json", "adapter_config.json")
"""One of these is in every folder that --save-hf writes."""


def check_checkpoints(ckpt: CkptConfig, trained: TrainedConfig = ALL_PARAMETERS) -> Iterator[str]:
    """Every broken rule of the flags about checkpoints, one sentence each."""
    if ckpt.max_checkpoints_to_keep is not None and ckpt.save is None and ckpt.save_interval is None:
        yield (
            f"--max-checkpoints-to-keep {ckpt.max_checkpoints_to_keep} has no effect without --save or --save-interval: "
            "there is one checkpoint at most"
        )
    if ckpt.hf_checkpoint is not None and tensors_folder(ckpt.hf_checkpoint) is not None:
        yield (
            f"--hf-checkpoint {ckpt.hf_checkpoint} has its weights in Megatron's format, which engines do not load; give "
            "the Hugging Face checkpoint, or one that `slimrl convert --to hf` makes, and these weights with --load"
        )
    if ckpt.save is not None and tensors_folder(ckpt.save) is not None:
        yield (
            f"--save {ckpt.save} holds checkpoints of Megatron, which one of slimrl could replace; name another folder, "
            f"and begin with their weights with --load {ckpt.save}"
        )
    if ckpt.ckpt_step is not None and ckpt.load is None:
        yield f"--ckpt-step {ckpt.ckpt_step} has no effect without --load, the folder that holds the checkpoint"
    if ckpt.async_save and ckpt.save_interval is None:
        yield (
            "--async-save has no effect without --save-interval: the one checkpoint is written when no step follows that "
            "could run meanwhile"
        )
    if ckpt.ckpt_format == "torch_dist" and trained.lora_rank is not None:
        yield (
            "--ckpt-format torch_dist has no effect with --lora-rank: adapters are small and saved as PEFT loads them; "
            "leave it out"
        )
    if ckpt.save_hf is not None:
        yield from _save_hf(ckpt.save_hf, ckpt.hf_checkpoint)


def save_hf_folder(template: str, step: int) -> Path:
    """Where --save-hf puts the weights that have seen `step` rollouts."""
    return Path(template.format(rollout_id=step)).absolute()


def _save_hf(template: str, hf_checkpoint: Path | None) -> Iterator[str]:
    try:
        first = save_hf_folder(template, 0)
    except (LookupError, ValueError, AttributeError) as error:
        yield f"--save-hf {template}: {{rollout_id}} is the only thing that it may have in braces ({error!r})"
        return
    parts = list(string.Formatter().parse(str(Path(template).absolute())))
    pattern = re.compile("".join(re.escape(text) + r"\d+" * (name is not None) for text, name, _, _ in parts))
    if hf_checkpoint is not None and any(
        pattern.fullmatch(str(path)) for path in (hf_checkpoint.absolute(), hf_checkpoint.resolve())
    ):
        yield f"--save-hf {template} would replace --hf-checkpoint {hf_checkpoint}; name another folder"
        return
    if said := cannot_be_made(first.parent):
        yield f"--save-hf {template} cannot be made: {said}; name another folder"
        return
    there = first.parent.iterdir() if first.parent.is_dir() else ()
    for path in sorted(path for path in there if pattern.fullmatch(str(path))):
        if not path.is_dir() or (any(path.iterdir()) and not any((path / name).exists() for name in WRITTEN)):
            yield f"--save-hf {template} would replace {path}, which is no Hugging Face checkpoint; name another folder"
