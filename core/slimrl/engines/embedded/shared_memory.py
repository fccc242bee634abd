"""Weights handed over as a file in shared memory: mapped, checked and copied, never unpickled."""

from __future__ import annotations

import base64
import binascii
import json
import math
import mmap
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slimrl.engines.embedded.params import RequestError

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies in the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Size of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors in one file that the sender has written and keeps until the engine has answered."""

    path: Path
    entries: tuple[Entry, ...]

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The tensors by name, mapped from the file; raises RequestError when it may not be read or is too short."""
        descriptor = _open(self.path)
        try:
            size = os.fstat(descriptor).st_size
            for entry in self.entries:
                end = entry.offset + entry.num_bytes
                if end > size:
                    raise RequestError(f"weight {entry.name!r} ends at byte {end}; {self.path} has {size}")
            if not size:
                return []
            # a private mapping: nothing here can change the sender's file
            mapping = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)
        return [(entry.name, _tensor(mapping, entry)) for entry in self.entries]


def parse_bucket(text: Any) -> Bucket:
    """A bucket from one entry of serialized_named_tensors: JSON, or JSON in base64."""
    if not isinstance(text, str):
        raise RequestError("serialized_named_tensors must hold strings")
    try:
        if not text.lstrip().startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        found = json.loads(text)
        path = Path(found["path"])
        entries = tuple(_entry(one) for one in found["tensors"])
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise RequestError(
            'serialized_named_tensors must hold {"path", "tensors": [{"name", "dtype", "shape", "offset"}]}: '
            f"{error!r}"
        ) from error
    return Bucket(path, entries)


def _entry(found: Mapping[str, Any]) -> Entry:
    dtype, shape, offset = _DTYPES[found["dtype"]], tuple(found["shape"]), found["offset"]
    if not all(type(number) is int and number >= 0 for number in (*shape, offset)):
        raise ValueError(f"shape {list(shape)} and offset {offset} must be whole numbers, not negative")
    if offset % dtype.itemsize:
        raise ValueError(f"offset {offset} is no multiple of {dtype.itemsize} bytes")
    return Entry(str(found["name"]), dtype, shape, offset)


def _open(path: Path) -> int:
    """A descriptor of a plain file of ours in shared memory or the temporary folder."""
    allowed = [folder.resolve() for folder in (Path("/dev/shm"), Path(tempfile.gettempdir()))]
    try:
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(folder) for folder in allowed):
            raise RequestError(f"{path} is outside {' and '.join(map(str, allowed))}; weights are read from there only")
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RequestError(f"cannot open {path}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
        os.close(descriptor)
        raise RequestError(f"{path} is not a plain file of the user that runs the engine")
    return descriptor


def _tensor(mapping: mmap.mmap, entry: Entry) -> torch.Tensor:
    count = math.prod(entry.shape)
    if not count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    return torch.frombuffer(mapping, dtype=entry.dtype, count=count, offset=entry.offset).view(entry.shape)
