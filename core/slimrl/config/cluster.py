"""Where the processes run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ClusterConfig:
    """Processes, devices and determinism."""

    ray_address: str | None = None
    """Address of a Ray cluster to join (`auto`, host:port, ray://...). Unset: a private one on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of engine and trainer; auto: cuda where it is available."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of engine and trainer; auto: float32 on a CPU, bfloat16 on cuda."""
    actor_num_nodes: int = 1
    """Machines of the cluster at --ray-address that the trainer has processes on; the first also has engines and rollout."""
    actor_num_gpus_per_node: int = 1
    """Processes of the trainer on each of its machines, each with a GPU, or on a CPU with its share of the threads. What --tensor-model-parallel-size x --pipeline-model-parallel-size x --context-parallel-size leaves of them are data-parallel."""
    rollout_num_gpus: int | None = None
    """Size of the rollout: --rollout-num-gpus / --rollout-num-gpus-per-engine embedded engines are started, on a CPU as processes that share the threads. Default: one engine."""
    num_threads: int | None = None
    """Threads that the trainer computes with, and the engines together. Default: the cores of the machine."""
    seed: int = 1234
    """Seed of the trainer."""
    deterministic: bool = False
    """Make a run repeatable to the last digit on the same machine: batch-invariant engine, deterministic kernels, groups accepted in order. Slower."""
