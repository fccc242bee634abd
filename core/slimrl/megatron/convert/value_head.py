"""The value head of a critic: in a Hugging Face checkpoint, that of a token classifier with one label."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from slimrl.errors import CheckpointError
from slimrl.megatron.convert.rule import Rule
from slimrl.megatron.tensor_files import TensorReader

WEIGHT, BIAS = "score.weight", "score.bias"
VALUE_HEAD = (
    Rule("value_head.weight", (WEIGHT,), place="output"),
    Rule("value_head.bias", (BIAS,), place="output"),
)


class ValueReader(TensorReader):
    """A checkpoint as a critic reads it: where it has no value head, or one without a bias, there are zeros."""

    def __init__(self, folder: Path, hidden_size: int) -> None:
        super().__init__(folder)
        self._shapes = {WEIGHT: (1, hidden_size), BIAS: (1,)}

    def names(self) -> set[str]:
        """Every tensor of the folder and of the head."""
        return super().names() | self._shapes.keys()

    def read(self, name: str) -> Tensor:
        """As of any checkpoint; raises CheckpointError for a head that has not one output."""
        if name not in super().names():
            return torch.zeros(self._shapes[name])
        tensor = super().read(name)
        if name in self._shapes and tensor.shape != self._shapes[name]:
            raise CheckpointError(
                f"checkpoint {self.folder}: {name} is {tuple(tensor.shape)}; a critic has one output, so it would be "
                f"{self._shapes[name]}; give another --critic-load"
            )
        return tensor
