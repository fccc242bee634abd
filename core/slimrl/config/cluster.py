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
    num_threads: int | None = None
    """Threads that engine and trainer compute with. Default: the cores of the machine."""
    seed: int = 1234
    """Seed of the trainer."""
    deterministic: bool = False
    """Make a run repeatable to the last digit on the same machine: batch-invariant engine, deterministic kernels, groups accepted in order. Slower."""
