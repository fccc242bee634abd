"""Loading a Hugging Face checkpoint into Megatron parameters and exporting them again, tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from slimrl.errors import CheckpointError
from slimrl.megatron.convert.family import rules_for
from slimrl.megatron.convert.place import WHOLE, Place, local_rules, take_share
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.tensor_files import TensorReader

# transformers 4 wrote buffers that are computed from the config.
COMPUTED = ("rotary_emb.inv_freq",)


@torch.no_grad()
def load_weights(
    parameters: Mapping[str, Tensor], reader: TensorReader, shape: ModelShape, place: Place = WHOLE
) -> None:
    """Fill the Megatron parameters of one rank from a checkpoint; one parameter's tensors are in memory at a time.

    Raises CheckpointError naming every tensor that is missing, left over or of another shape; then nothing was
    trained on yet, but parameters may be partly filled.
    """
    check_names(reader, shape)
    for name, rule in local_rules(shape, place):
        share = take_share(rule.join([reader.read(name) for name in rule.hf], shape), rule, place)
        parameter = parameters[name]
        if share.shape != parameter.shape:
            raise CheckpointError(
                f"checkpoint {reader.folder}: {' + '.join(rule.hf)} is {tuple(share.shape)}, "
                f"its config.json makes it {tuple(parameter.shape)}"
            )
        parameter.copy_(share)


@torch.no_grad()
def export_weights(parameters: Mapping[str, Tensor], shape: ModelShape) -> Iterator[tuple[str, Tensor]]:
    """Yield (HF name, tensor) for every tensor of the checkpoint, lazily; tensors may be views of parameters."""
    for rule in rules_for(shape):
        yield from zip(rule.hf, rule.split(parameters[rule.megatron].detach(), shape), strict=True)


def check_names(reader: TensorReader, shape: ModelShape) -> None:
    """Raise CheckpointError naming every tensor that a checkpoint lacks or that has no place in the model."""
    expected = {name for rule in rules_for(shape) for name in rule.hf}
    ignored = {"lm_head.weight"} if shape.has_tied_embeddings else set()
    missing = sorted(expected - reader.names())
    extra = sorted(n for n in reader.names() - expected - ignored if not _is_left_out(n, shape))
    if missing or extra:
        problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has no place for {_some(extra)}"] * bool(extra)
        raise CheckpointError(f"checkpoint {reader.folder} does not fit its config.json: it {'; it '.join(problems)}")


def _is_left_out(name: str, shape: ModelShape) -> bool:
    """Whether a tensor has no use here: computed from the config, or of DeepSeek's prediction of further tokens."""
    if name.endswith(COMPUTED):
        return True
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return shape.family == "deepseek_v3" and match is not None and int(match[1]) >= shape.num_layers


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
