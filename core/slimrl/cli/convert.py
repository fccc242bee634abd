"""`slimrl convert`: weights between Hugging Face's format and Megatron's distributed checkpoints, bit for bit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from slimrl.cli.command_flags import print_help, read_flags, wants_help
from slimrl.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from slimrl.megatron.shape import ModelShape

USAGE: Final = "slimrl convert --to megatron|hf --input DIR --output DIR [FLAGS]"
ABOUT: Final = (
    "Turn a Hugging Face checkpoint into a distributed checkpoint of Megatron (torch_dist), or back. The weights stay "
    "as they are to the last bit."
)


@dataclass(frozen=True)
class ConvertFlags:
    """The flags of `slimrl convert`."""

    to: Literal["megatron", "hf"] | None = None
    """Format of the output. Required."""
    input: Path | None = None
    """Folder of the checkpoint. Required."""
    output: Path | None = None
    """Folder that is made; one that is there must be empty. Required."""
    hf_checkpoint: Path | None = None
    """With --to hf: the checkpoint whose config and tokenizer the output gets. Default: those in --input."""
    tensor_model_parallel_size: int | None = None
    """With --to megatron: processes that share each layer's tensors. The output loads at any size."""
    pipeline_model_parallel_size: int | None = None
    """With --to megatron: groups of processes that share the layers. The output loads at any size."""


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint and print the new folder; raises UsageError or CheckpointError, leaving nothing behind."""
    if wants_help(argv):
        print_help(USAGE, ABOUT, ConvertFlags, takes_plugin_flags=False)
        return 0
    flags, _ = read_flags(argv, ConvertFlags)
    _check(flags)
    assert flags.input is not None and flags.output is not None, "checked above"
    write = _to_megatron if flags.to == "megatron" else _to_hf
    partial = flags.output.with_name(f".{flags.output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        write(flags, flags.input, partial)
        partial.replace(flags.output)
    except OSError as e:
        raise CheckpointError(f"{e.filename or flags.output}: {e.strerror or e}") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sys.stdout.write(f"{flags.output}\n")
    return 0


def _check(flags: ConvertFlags) -> None:
    problems = []
    if flags.to is None:
        problems.append("--to is required: megatron or hf")
    if flags.input is None:
        problems.append("--input is required: the folder of a checkpoint")
    elif not flags.input.is_dir():
        problems.append(f"--input {flags.input}: there is no such folder")
    if flags.output is None:
        problems.append("--output is required: the folder that is made")
    elif flags.output.exists() and not (flags.output.is_dir() and next(flags.output.iterdir(), None) is None):
        problems.append(f"--output {flags.output} is there and not an empty folder; give another")
    elif not flags.output.absolute().parent.is_dir():
        problems.append(f"--output {flags.output}: there is no folder {flags.output.parent}")
    if flags.to == "megatron" and flags.hf_checkpoint is not None:
        problems.append("--hf-checkpoint has no effect with --to megatron: --input is a Hugging Face checkpoint itself")
    for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        flag, size = f"--{name.replace('_', '-')}", getattr(flags, name)
        if flags.to == "hf" and size is not None:
            problems.append(f"{flag} has no effect with --to hf: a distributed checkpoint knows how it was shared")
        elif size is not None and size < 1:
            problems.append(f"{flag} {size}: expected 1 or more")
    if problems:
        raise UsageError(problems)


def _to_megatron(flags: ConvertFlags, source: Path, folder: Path) -> None:
    from slimrl.megatron.checkpoint import copy_all_but_weights, hf_folder
    from slimrl.megatron.convert.megatron_folder import write_megatron
    from slimrl.megatron.layout_rules import layout_problems

    source = hf_folder(source)
    shape = _shape(source, "give a Hugging Face checkpoint")
    tensor, pipeline = flags.tensor_model_parallel_size or 1, flags.pipeline_model_parallel_size or 1
    if problems := layout_problems(shape, tensor, pipeline):
        raise UsageError(problems)
    copy_all_but_weights(source, folder)
    write_megatron(source, folder, shape, tensor_size=tensor, pipeline_size=pipeline)


def _to_hf(flags: ConvertFlags, source: Path, folder: Path) -> None:
    from slimrl.config.megatron_folder import TRACKER
    from slimrl.megatron.checkpoint import model_folder, save_hf_checkpoint
    from slimrl.megatron.convert.megatron_folder import read_megatron

    source = model_folder(source)
    like = flags.hf_checkpoint or source
    weights = read_megatron(source, _shape(like, "name the model's Hugging Face checkpoint with --hf-checkpoint"))
    dtype = weights["model.embed_tokens.weight"].dtype
    save_hf_checkpoint(folder, weights=weights.items(), source=like, dtype=dtype)
    (folder / TRACKER).unlink(missing_ok=True)


def _shape(folder: Path, way_out: str) -> ModelShape:
    from slimrl.megatron.checkpoint import read_config
    from slimrl.megatron.shape import model_shape

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json, which tells the model's shape; {way_out}")
    return model_shape(read_config(folder))
