"""Weights to engines on the same machine through a file in shared memory: one copy out, one copy in, no pickle."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import torch

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError
from slimrl.sync.update import UpdatePause, paused_engines

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")

_ALIGNMENT = 64
"""Every tensor starts at a multiple of this many bytes, as any element type may."""


_PREFIX = "slimrl-weights-"

BUCKET_S: Final = 120.0
"""How long an engine may take for one bucket, or to stand still: all the others wait for it."""


class SharedMemoryWay:
    """Sends weights in buckets through one file that is used again for each; the file is gone after each version."""

    def __init__(self, bucket_bytes: int = 64 << 20, *, retry_s: float = 15.0, pause: UpdatePause = "retract") -> None:
        self._pause = pause
        self._retry_s = retry_s
        self._bucket_bytes = bucket_bytes

    def send(
        self, weights: Iterable[tuple[str, torch.Tensor]], version: int, urls: Mapping[int, str]
    ) -> dict[int, EngineError]:
        """Replace the weights of engines, which all read each bucket; tensors may lie on any device."""
        start = time.perf_counter()
        try:
            failed = asyncio.run(self._send(weights, version, urls))
        except OSError as error:
            raise EngineError(f"weight version {version} could not be written to memory: {error}") from error
        logger.info("weight version %d reached %s in %.2f s", version, list(urls.values()), time.perf_counter() - start)
        return failed

    async def _send(
        self, weights: Iterable[tuple[str, torch.Tensor]], version: int, urls: Mapping[int, str]
    ) -> dict[int, EngineError]:
        with SharedFile(self._bucket_bytes) as file:
            async with paused_engines(urls, version, self._retry_s, BUCKET_S, self._pause) as update:
                await update.each(lambda engine: engine.begin_weight_update())
                for bucket in file.buckets(weights):

                    async def take(engine: HttpEngineClient, bucket: str = bucket) -> None:
                        await engine.update_weights_from_tensor(bucket, "shared_memory", version)

                    await update.each(take)
                await update.each(lambda engine: engine.end_weight_update())
            return update.failed


class SharedFile:
    """A file in memory that holds one bucket of tensors at a time; in the temporary folder if memory is too small."""

    def __init__(self, bucket_bytes: int, folder: Path = SHARED_MEMORY) -> None:
        self._bucket_bytes = bucket_bytes
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._capacity = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def buckets(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[str]:
        """Descriptions of buckets of up to `bucket_bytes`, or of one larger tensor, in JSON.

        The form is {"path", "tensors": [{"name", "dtype", "shape", "offset"}]}; a bucket lasts until the next.
        """
        tensors: list[dict[str, Any]] = []  # any JSON value
        end = 0
        for name, tensor in weights:
            num_bytes = tensor.numel() * tensor.element_size()
            if tensors and end + num_bytes > self._bucket_bytes:
                yield self._finish(tensors)
                tensors, end = [], 0
            if not tensors:
                self._start(max(num_bytes, self._bucket_bytes))
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors.append({"name": name, "dtype": dtype, "shape": list(tensor.shape), "offset": end})
            end = self._write(tensor)
        if tensors:
            yield self._finish(tensors)

    def _start(self, num_bytes: int) -> None:
        if self._capacity < num_bytes:
            self._remove()
            # Writing a file past the size of a memory file system (64 MiB in many containers) would fail.
            fits = self._folder.is_dir() and shutil.disk_usage(self._folder).free > num_bytes + (1 << 20)
            folder = self._folder if fits else Path(tempfile.gettempdir())
            _remove_abandoned(folder)
            # removed by __exit__; the engine opens it by name
            self._file = tempfile.NamedTemporaryFile(prefix=_PREFIX, dir=folder, delete=False)  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._capacity = num_bytes
        self._open.seek(0)

    def _write(self, tensor: torch.Tensor) -> int:
        """Append a tensor's bytes; returns the offset for the next."""
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu()  # numpy has no bfloat16, but bytes
        self._open.write(flat.numpy().data)
        self._open.write(bytes(-flat.numel() % _ALIGNMENT))
        return self._open.tell()

    def _finish(self, tensors: list[dict[str, Any]]) -> str:
        self._open.flush()
        return json.dumps({"path": self._open.name, "tensors": tensors})

    @property
    def _open(self) -> IO[bytes]:
        assert self._file is not None  # a bucket is started before it is written
        return self._file

    def _remove(self) -> None:
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                Path(self._file.name).unlink()
            self._file.close()
            self._file = None


def _remove_abandoned(folder: Path) -> None:
    """Remove the files of senders that were killed: nobody holds their lock, which ends with the process."""
    for path in folder.glob(f"{_PREFIX}*"):
        # another user's file, or one that its owner removes at this moment
        with contextlib.suppress(OSError), path.open("r+b") as file:
            is_new = time.time() - path.stat().st_mtime < 60.0  # its owner may be about to lock it
            if not is_new:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
