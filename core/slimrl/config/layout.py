"""How the trainer's work is spread over its processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Sizes of the trainer's parallel groups; what is left of the processes trains other samples."""

    world_size: int = 1
    """Processes in all."""
    tensor_size: int = 1
    """Processes that share each matrix."""
    pipeline_size: int = 1
    """Processes that have other layers each."""
    chunks_per_stage: int = 1
    """Parts that the layers of one pipeline stage are cut into (interleaved schedule)."""
    context_size: int = 1
    """Processes that share the tokens of a micro-batch."""
    expert_size: int = 1
    """Processes that have other experts each."""
    expert_tensor_size: int = 1
    """Processes that share each matrix of an expert."""
    is_sequence_parallel: bool = False
    """Whether tensor-parallel processes also share the tokens between the matrices."""
    shares_optimizer: bool = False
    """Whether data-parallel processes share the optimizer's state."""

    @property
    def model_size(self) -> int:
        """Processes that a micro-batch passes through."""
        return self.tensor_size * self.pipeline_size * self.context_size

    @property
    def data_size(self) -> int:
        """Processes, or groups of them, that train other samples each."""
        return self.world_size // self.model_size

    @property
    def is_single(self) -> bool:
        """Whether one process does everything."""
        return self.world_size == 1

    @property
    def token_multiple(self) -> int:
        """What the number of tokens of a micro-batch is a multiple of."""
        # each of the context's processes has two runs of tokens, so that late and early ones are shared equally
        between = 1 if self.context_size == 1 else 2 * self.context_size
        return between * (self.tensor_size if self.is_sequence_parallel else 1)


@dataclass(frozen=True)
class Recompute:
    """What of the forward pass is computed again in the backward pass instead of being kept."""

    granularity: Literal["full", "selective"] | None = None
    method: Literal["uniform", "block"] | None = None
    num_layers: int | None = None


SINGLE, KEEP_ALL = Layout(), Recompute()
