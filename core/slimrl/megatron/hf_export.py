"""A model as engines load it, made of a checkpoint that has adapters or pieces of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from slimrl.config.megatron_folder import tensors_folder
from slimrl.errors import CheckpointError
from slimrl.megatron.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PEFT_PREFIX,
    model_folder,
    read_config,
    read_json,
    save_hf_checkpoint,
)
from slimrl.megatron.tensor_files import TensorReader


def write_as_hf(base: Path, folder: Path, *, made_of: Path | None = None, dtype: torch.dtype) -> None:
    """Write a model's weights into an empty folder as a Hugging Face checkpoint.

    `made_of`: an adapter as PEFT has it, which is merged into them, or tensors of Megatron in their place. What an
    adapter changes is in that number format, as the trainer computes with it; all else stays as it is.
    """
    found = model_folder(base)
    if made_of is None or tensors_folder(made_of) is not None:
        weights = _weights(made_of or found, found)
    else:
        weights = merged(_weights(found, found), made_of, dtype)
    save_hf_checkpoint(folder, weights=weights, source=found, dtype=dtype)


@torch.no_grad()
def merged(weights: Iterator[tuple[str, Tensor]], adapter: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Weights plus what a folder of PEFT's adds to them: scale * B A, in float32.

    Raises CheckpointError when the adapter belongs to weights that do not come.
    """
    said, reader = read_json(adapter / ADAPTER_CONFIG), TensorReader(adapter)
    left = reader.names()
    scale = float(said["lora_alpha"]) / int(said["r"])
    for name, weight in weights:
        down, up = (f"{PEFT_PREFIX}{name.removesuffix('.weight')}.lora_{part}.weight" for part in "AB")
        if down in left and up in left:
            change = reader.read(up).float() @ reader.read(down).float()
            if change.shape != weight.shape:
                raise CheckpointError(
                    f"{adapter} is not of this model: {name} is {tuple(weight.shape)}, the adapter makes it "
                    f"{tuple(change.shape)}"
                )
            yield name, torch.add(weight.to(dtype).float(), change, alpha=scale).to(dtype)
            left -= {down, up}
        else:
            yield name, weight
    if left:
        raise CheckpointError(f"{adapter / ADAPTER_WEIGHTS} is not of this model, which has no {min(left)}")


def _weights(folder: Path, described: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a folder in either format; the other one says what model they are of."""
    if tensors_folder(folder) is None:
        reader = TensorReader(folder)
        yield from ((name, reader.read(name)) for name in sorted(reader.names()))
    else:
        from slimrl.megatron.convert.megatron_folder import read_megatron
        from slimrl.megatron.shape import model_shape

        yield from read_megatron(folder, model_shape(read_config(described))).items()
