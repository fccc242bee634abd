"""Replaces the weights of a running engine, from disk or from shared memory, and counts their versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.params import RequestError
from slimrl.engines.embedded.shared_memory import parse_bucket
from slimrl.errors import EngineError


class WeightUpdates:
    """Every method runs on the scheduler's thread, between two steps; requests in flight keep what they have stored."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_open = False
        self._num_copied = 0
        """Tensors of the update that is open."""
        self._snapshot: dict[str, str] | None = None

    def begin(self) -> None:
        """Open an update; an update that was left open is forgotten."""
        self._is_open = True
        self._num_copied = 0

    def end(self) -> None:
        """Close the update; raises RequestError when none is open."""
        self._require_open()
        self._is_open = False

    def from_disk(self, model_path: Path, version: str | None) -> None:
        """All weights from a checkpoint folder; raises EngineError, the old ones untouched, when they do not fit."""
        self._engine.runner.load(model_path)
        self._took_effect(version)

    def from_buckets(self, texts: Sequence[Any], load_format: Any, version: str | None) -> None:
        """The tensors of a bucket; a bucket of which anything is wrong is refused whole with RequestError."""
        self._require_open()
        if load_format != "shared_memory":
            raise RequestError(
                f"load_format {load_format!r} is not supported: this engine unpickles nothing; "
                "use 'shared_memory' or /update_weights_from_disk"
            )
        if len(texts) != 1:
            raise RequestError(f"serialized_named_tensors has {len(texts)} entries; this engine has one rank")
        weights = self._engine.runner.weights
        bucket = parse_bucket(texts[0])
        try:
            weights.check({entry.name: entry.shape for entry in bucket.entries})
            tensors = bucket.tensors()
        except EngineError as error:
            before = f"; {self._num_copied} tensors of this update are in place already" if self._num_copied else ""
            raise RequestError(f"{error}{before}") from error
        weights.copy(tensors)
        self._num_copied += len(tensors)
        self._took_effect(version)

    def set_version(self, version: str) -> None:
        """Name the weights as they are."""
        self._engine.scheduler.weight_version = version

    def head_of(self, name: str, count: int) -> list[Any]:
        """The first rows of a tensor as nested lists; raises EngineError for an unknown name."""
        found: list[Any] = self._engine.runner.weights[name].read()[:count].float().tolist()
        return found

    def checker(self, action: str) -> dict[str, Any]:
        """Checksums of all tensors: shown (checksum), remembered (snapshot) or compared with what was (compare)."""
        checksums = self._engine.runner.weights.checksums()
        if action == "checksum":
            return {"checksums": checksums}
        if action == "snapshot":
            self._snapshot = checksums
            return {}
        if action != "compare":
            raise RequestError(f"unknown action {action!r}; there are: checksum, snapshot, compare")
        if self._snapshot is None:
            raise RequestError("compare needs a snapshot; send action 'snapshot' first")
        changed = [name for name, checksum in checksums.items() if self._snapshot[name] != checksum]
        if changed:
            raise RequestError(f"{len(changed)} weights differ from the snapshot, the first {changed[0]!r}")
        return {}

    def _took_effect(self, version: str | None) -> None:
        self._engine.runner.forget()
        if version is not None:
            self.set_version(version)

    def _require_open(self) -> None:
        if not self._is_open:
            raise RequestError("no weight update is open; send /begin_weight_update first")
