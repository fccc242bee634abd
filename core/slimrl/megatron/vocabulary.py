"""The rows of the vocabulary that one tensor-parallel process has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class VocabularyShare:
    """Rows start..end of embedding and output weight; the tensors may have rows of padding after them."""

    start: int
    end: int
    group: Any  # torch's process groups have no common type

    def find(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's row here, 0 where it is not here, and whether it is."""
        is_here = (tokens >= self.start) & (tokens < self.end)
        return torch.where(is_here, tokens - self.start, 0), is_here

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up over the processes, in place."""
        distributed.all_reduce(tensor, group=self.group)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """The largest over the processes, in place."""
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self.group)
        return tensor
