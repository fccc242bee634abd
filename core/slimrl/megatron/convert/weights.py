"""Loading a Hugging Face checkpoint into Megatron parameters and exporting them again, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from slimrl.errors import CheckpointError
from slimrl.megatron.convert.family import rules_for
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.tensor_files import TensorReader

# transformers 4 wrote buffers that are computed from the config.
COMPUTED = ("rotary_emb.inv_freq",)


@torch.no_grad()
def load_weights(parameters: Mapping[str, Tensor], reader: TensorReader, shape: ModelShape) -> None:
    """Fill Megatron parameters from a checkpoint; one parameter's tensors are in memory at a time.

    Raises CheckpointError naming every tensor that is missing, left over or of another shape; then nothing was
    trained on yet, but parameters may be partly filled.
    """
    rules = rules_for(shape)
    expected = {name for rule in rules for name in rule.hf}
    ignored = {"lm_head.weight"} if shape.has_tied_embeddings else set()
    missing = sorted(expected - reader.names())
    extra = sorted(n for n in reader.names() - expected - ignored if not n.endswith(COMPUTED))
    if missing or extra:
        problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has no place for {_some(extra)}"] * bool(extra)
        raise CheckpointError(f"checkpoint {reader.folder} does not fit its config.json: it {'; it '.join(problems)}")
    for rule in rules:
        whole = rule.join([reader.read(name) for name in rule.hf], shape)
        parameter = parameters[rule.megatron]
        if whole.shape != parameter.shape:
            raise CheckpointError(
                f"checkpoint {reader.folder}: {' + '.join(rule.hf)} is {tuple(whole.shape)}, "
                f"its config.json makes it {tuple(parameter.shape)}"
            )
        parameter.copy_(whole)


@torch.no_grad()
def export_weights(parameters: Mapping[str, Tensor], shape: ModelShape) -> Iterator[tuple[str, Tensor]]:
    """Yield (HF name, tensor) for every tensor of the checkpoint, lazily; tensors may be views of parameters."""
    for rule in rules_for(shape):
        yield from zip(rule.hf, rule.split(parameters[rule.megatron].detach(), shape), strict=True)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
