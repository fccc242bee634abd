"""Where the trainer computes, in which number format, and whether twice the same."""

from __future__ import annotations

import os
from typing import Literal

import torch

from slimrl.errors import ConfigError


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of that name; raises ConfigError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda but torch finds no CUDA device; use --device cpu")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def dtype_of(name: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The number format of that name, or the one that suits the device."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16


def be_deterministic() -> None:
    """Make torch compute the same twice, to the last bit."""
    # cuBLAS reads it when it is first used
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # It would write NaN into every new tensor; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
