"""Reads the tensors of a Hugging Face checkpoint folder straight from its safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from slimrl.errors import EngineError

FLOAT_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Checkpoint:
    """The named tensors of a folder; opening it reads headers only.

    Raises EngineError when a file is missing, truncated or not safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for path in _files(folder):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                        piece = file.get_slice(name)
                        self._files[name] = path
                        self.shapes[name] = tuple(piece.get_shape())
                        self.dtypes[name] = piece.get_dtype()
            except (SafetensorError, OSError) as error:
                raise EngineError(f"cannot read weights from {path}: {error}") from error

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, file after file, one in memory at a time."""
        for path in dict.fromkeys(self._files.values()):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise EngineError(f"{index} is not an index of safetensors files: {error!r}") from error
        if any(Path(name).name != name for name in names):
            raise EngineError(f"{index} names files outside its folder")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if not single.exists():
        raise EngineError(
            f"{folder} has neither model.safetensors nor model.safetensors.index.json; "
            "save the checkpoint in safetensors format"
        )
    return [single]
