"""Folders of safetensors files, read and written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from slimrl.errors import CheckpointError

DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint8: "U8",
}


class TensorReader:
    """The tensors of one checkpoint folder by name, whichever of its safetensors files they are in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(
                f"{folder} holds no *.safetensors; convert the checkpoint with transformers' save_pretrained"
            )
        self._files: dict[str, Any] = {}  # Any: safetensors has no type for its handle
        for file in files:
            handle = _open(file)
            self._files.update(dict.fromkeys(handle.keys(), handle))

    def names(self) -> set[str]:
        """Every tensor of the folder."""
        return set(self._files)

    def read(self, name: str) -> Tensor:
        """One tensor, as stored, on the CPU; the file is mapped, so only this tensor is read."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def _open(file: Path) -> Any:  # Any: safetensors has no type for its handle
    try:
        return safe_open(file, framework="pt")
    except Exception as e:  # safetensors raises its own error type, made in Rust
        raise CheckpointError(f"cannot read {file}: {e}; the file is damaged or not in safetensors format") from e


def write_tensors(file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write one safetensors file without a second copy of what it holds; the tensors may be views.

    safetensors' own save_file turns every tensor into bytes before the first is written.
    """
    named = [(name, tensor.detach()) for name, tensor in tensors]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in named:
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little"))
        out.write(encoded)
        for _, tensor in named:
            out.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
