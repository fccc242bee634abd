"""Weights to engines through HF checkpoints in a folder that all can see."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from slimrl.errors import EngineError
from slimrl.sync.update import UpdatePause, paused_engines

logger = logging.getLogger(__name__)

LOAD_S: Final = 600.0
"""How long an engine may take to load a checkpoint."""
_COPIED_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt"})


class DiskWay:
    """Writes each version as a checkpoint `weight_vNNNNNN` and has engines load it; the one before is deleted."""

    def __init__(
        self,
        folder: Path,
        config_source: Path,
        *,
        shard_bytes: int = 2 << 30,
        retry_s: float = 15.0,
        pause: UpdatePause = "retract",
    ) -> None:
        self._pause = pause
        self._retry_s = retry_s
        self._folder = folder
        self._config_source = config_source
        self._shard_bytes = shard_bytes
        self._published: Path | None = None

    def send(
        self, weights: Iterable[tuple[str, torch.Tensor]], version: int, urls: Mapping[int, str]
    ) -> dict[int, EngineError]:
        """Replace the weights of engines; they generate on while the checkpoint is written."""
        start = time.perf_counter()
        target = self._folder / f"weight_v{version:06d}"
        is_there = target == self._published  # an engine comes late to this version
        if not is_there:
            self._write(target, weights, version)
        try:
            failed = asyncio.run(self._load(target.resolve(), version, urls))
        except BaseException:
            if not is_there:
                shutil.rmtree(target, ignore_errors=True)
            raise
        for other in {*self._folder.glob("weight_v*"), *self._folder.glob(".weight_v*")} - {target}:
            shutil.rmtree(other)  # also what a killed run left
        self._published = target
        logger.info("weight version %d reached %s in %.2f s", version, list(urls.values()), time.perf_counter() - start)
        return failed

    def _write(self, target: Path, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        unfinished = self._folder / f".{target.name}.unfinished"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write_checkpoint(unfinished, weights, self._config_source, self._shard_bytes)
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, OSError):
                raise EngineError(f"weight version {version} could not be written to {target}: {error}") from error
            raise

    async def _load(self, checkpoint: Path, version: int, urls: Mapping[int, str]) -> dict[int, EngineError]:
        async with paused_engines(urls, version, self._retry_s, LOAD_S, self._pause) as update:
            await update.each(lambda engine: engine.update_weights_from_disk(checkpoint, version))
        return update.failed


def write_checkpoint(
    folder: Path, weights: Iterable[tuple[str, torch.Tensor]], config_source: Path, shard_bytes: int
) -> None:
    """Write weights as an HF checkpoint into an existing folder; configuration and tokenizer come from another one.

    At most `shard_bytes` are held in memory at a time, or one larger tensor.
    """
    for path in sorted(config_source.iterdir()):
        if path.suffix in _COPIED_SUFFIXES and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    shard_size = total_size = 0
    for name, tensor in weights:
        num_bytes = tensor.numel() * tensor.element_size()
        if shard and shard_size + num_bytes > shard_bytes:
            shards.append(_write_shard(folder, len(shards), shard))
            shard, shard_size = {}, 0
        shard[name] = tensor
        shard_size += num_bytes
        total_size += num_bytes
    shards.append(_write_shard(folder, len(shards), shard))
    _name_shards(folder, shards, total_size)


def _write_shard(folder: Path, number: int, shard: dict[str, torch.Tensor]) -> list[str]:
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in shard.items():
        plain = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory, as parts of a fused weight or tied weights do
        storage = plain.untyped_storage().data_ptr()
        tensors[name] = plain.clone() if storage in storages else plain
        storages.add(storage)
    save_file(tensors, folder / f"{number}.safetensors", metadata={"format": "pt"})
    return list(tensors)


def _name_shards(folder: Path, shards: list[list[str]], total_size: int) -> None:
    """Give the files the names that HF loaders look for: how many there are is known at the end."""
    if len(shards) == 1:
        (folder / "0.safetensors").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file_name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"{number}.safetensors").rename(folder / file_name)
        weight_map |= dict.fromkeys(names, file_name)
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
