"""Folders of safetensors files, read and written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from slimrl.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_FILE_BYTES = 5_000_000_000
"""As large as transformers makes a weight file."""

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
        files = _files(folder)
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

    def dtype(self, name: str) -> torch.dtype:
        """Number format of one tensor; raises CheckpointError for one that cannot be read."""
        written = self._files[name].get_slice(name).get_dtype()
        for dtype, code in DTYPES.items():
            if code == written:
                return dtype
        raise CheckpointError(f"{self.folder}: {name} is {written}, which cannot be read; save it as BF16 or F32")


def _files(folder: Path) -> list[Path]:
    # some checkpoints carry their weights a second time in the original layout: the index, or the one file, counts
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            files = [folder / Path(name).name for name in names]
        except (ValueError, KeyError, AttributeError, TypeError) as e:
            raise CheckpointError(f"{index} is damaged: {e!r}; fetch the checkpoint again") from e
        if missing := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which {INDEX} names; fetch it again")
        return files
    single = folder / SINGLE
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _open(file: Path) -> Any:  # Any: safetensors has no type for its handle
    try:
        return safe_open(file, framework="pt")
    except Exception as e:  # safetensors raises its own error type, made in Rust
        raise CheckpointError(f"cannot read {file}: {e}; the file is damaged or not in safetensors format") from e


def use_up(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Go through weights or optimizer state to the end, so that no process waits for another's."""
    for _ in tensors:
        pass


def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]], *, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Write weights where transformers looks for them: one file, or several of at most `max_bytes` and an index.

    Tensors are taken as they come, so that only one file's are in memory; one larger than a file has its own.
    """
    names: list[list[str]] = []
    total = 0
    for number, group in enumerate(_groups(tensors, max_bytes)):
        write_tensors(folder / f"{number}.part", group)
        names.append([name for name, _ in group])
        total += sum(_num_bytes(tensor) for _, tensor in group)
    if len(names) == 1:
        (folder / "0.part").rename(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, held in enumerate(names):
        file = f"model-{number + 1:05}-of-{len(names):05}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        weight_map |= dict.fromkeys(held, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))


def _groups(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[list[tuple[str, Tensor]]]:
    group: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in tensors:
        if group and size + _num_bytes(tensor) > max_bytes:
            yield group
            group, size = [], 0
        group.append((name, tensor))
        size += _num_bytes(tensor)
    yield group


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def write_tensors(file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write one safetensors file without a second copy of what it holds; the tensors may be views.

    safetensors' own save_file turns every tensor into bytes before the first is written.
    """
    named = [(name, tensor.detach()) for name, tensor in tensors]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in named:
        size = _num_bytes(tensor)
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
