"""Process groups of the trainer."""

from __future__ import annotations

import os
import socket

import torch
from torch import distributed


def init_parallel(device: torch.device, seed: int) -> None:
    """Start torch.distributed and Megatron's groups for a world of this one process.

    The store is in the process's memory, so no port is fixed and nothing listens beyond the loopback interface.
    """
    from megatron.core import parallel_state, tensor_parallel

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo listens on the interface of the host's name unless told otherwise
    interface = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    is_set = "GLOO_SOCKET_IFNAME" in os.environ
    if interface and not is_set:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    try:
        if not distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # made in C++
            distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        if not parallel_state.model_parallel_is_initialized():
            parallel_state.initialize_model_parallel()
    finally:
        if interface and not is_set:
            del os.environ["GLOO_SOCKET_IFNAME"]
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def shut_down_parallel() -> None:
    """Leave the process groups, if there are any; the process can start them anew."""
    if not distributed.is_initialized():
        return
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    distributed.destroy_process_group()
