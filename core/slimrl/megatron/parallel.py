"""Process groups of the trainer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from slimrl.config.layout import SINGLE, Layout
from slimrl.megatron.meeting import Meeting, interface_to, open_store


@dataclass(frozen=True)
class Parallel:
    """Where this process stands among the trainer's."""

    layout: Layout = SINGLE
    rank: int = 0
    data_rank: int = 0
    """Number among those that train other samples."""
    context_rank: int = 0
    """Number among those that share the tokens of a micro-batch."""
    context_group: Any = None  # torch's process groups have no common type
    """The processes that share the tokens; None: it has them alone."""
    is_last_stage: bool = True
    """Whether the loss is computed here."""
    reports: bool = True
    """Whether its numbers count: one process of those that compute the same does."""
    files_group: Any = None
    """All processes, apart from the training, so that they can write a checkpoint together meanwhile; if asked for."""

    def gather(self, value: dict[str, float] | list[dict[str, float]]) -> list[Any]:
        """The values of the processes whose numbers count, in the order of their ranks; all processes must ask."""
        if self.layout.is_single:
            return [value]
        gathered: list[Any] = [None] * self.layout.world_size
        distributed.all_gather_object(gathered, value if self.reports else None)
        return [one for one in gathered if one is not None]

    def add_up(self, array: Tensor) -> Tensor:
        """Sum of the arrays of the processes whose numbers count; all processes must ask."""
        if not self.layout.is_single:
            array = array.clone() if self.reports else torch.zeros_like(array)
            distributed.all_reduce(array)
        return array

    def agree(self, array: Tensor) -> Tensor:
        """The array as the first process has it; all processes must ask."""
        if not self.layout.is_single:
            distributed.broadcast(array, src=0)
        return array


def init_parallel(
    device: torch.device,
    seed: int,
    layout: Layout = SINGLE,
    rank: int = 0,
    meeting: Meeting | None = None,
    *,
    has_files_group: bool = False,
) -> Parallel:
    """Start torch.distributed and Megatron's groups, of this one process or of all that meet somewhere.

    A single process's store is in its memory, so no port is fixed and nothing listens beyond the loopback interface.
    Megatron knows nothing of context parallelism: to it, processes that share tokens are data-parallel ones, which
    need only exchange keys and values in attention.
    """
    from megatron.core import parallel_state, tensor_parallel

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo listens on the interface of the host's name unless told otherwise
    interface = interface_to(meeting)
    is_set = "GLOO_SOCKET_IFNAME" in os.environ
    if interface and not is_set:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    try:
        if not distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(
                backend, store=open_store(meeting, layout.world_size), rank=rank, world_size=layout.world_size
            )
        if not parallel_state.model_parallel_is_initialized():
            chunks = layout.chunks_per_stage
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=layout.tensor_size,
                pipeline_model_parallel_size=layout.pipeline_size,
                virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
                expert_model_parallel_size=layout.expert_size,
                expert_tensor_parallel_size=layout.expert_tensor_size,
            )
        group = _context_group(layout, rank)
        files_group = distributed.new_group(backend="gloo") if has_files_group else None
    finally:
        if interface and not is_set:
            del os.environ["GLOO_SOCKET_IFNAME"]
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    data_rank, context_rank = divmod(parallel_state.get_data_parallel_rank(), layout.context_size)
    is_last = parallel_state.is_pipeline_last_stage()
    is_first_of_equals = context_rank == 0 and parallel_state.get_tensor_model_parallel_rank() == 0
    return Parallel(layout, rank, data_rank, context_rank, group, is_last, is_last and is_first_of_equals, files_group)


def _context_group(layout: Layout, rank: int) -> Any:
    """The process's group; every process makes all of them. Ranks go by tensor, context, data, pipeline."""
    if layout.context_size == 1:
        return None
    tensor, context = layout.tensor_size, layout.context_size
    own = None
    for first in range(0, layout.world_size, tensor * context):
        for shift in range(tensor):
            ranks = list(range(first + shift, first + tensor * context, tensor))
            group = distributed.new_group(ranks)
            own = group if rank in ranks else own
    return own


def shut_down_parallel() -> None:
    """Leave the process groups, if there are any; the process can start them anew."""
    if not distributed.is_initialized():
        return
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    distributed.destroy_process_group()
