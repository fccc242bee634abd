"""A JSON lines file of finished responses, read line by line: each is a sample, or an outcome that says why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimrl.errors import UsageError
from slimrl.registry.rewards import RM_TYPE, rm_types
from slimrl.scoring.outcome import failed
from slimrl.types import Sample, Score, Status

MAX_RM_TYPES: Final = 1_000
"""Distinct reward names that are looked up; a file that names more has something else under that key."""


@dataclass(frozen=True)
class RowKeys:
    """Under which keys a line holds what."""

    response: str = "response"
    label: str = "label"
    prompt: str = "prompt"
    metadata: str = "metadata"


@dataclass(frozen=True)
class Scan:
    """What one pass over a file found."""

    num_lines: int
    sha256: str
    rm_types: tuple[str, ...]
    """The names that metadata.rm_type says, in order of appearance."""


@dataclass(frozen=True)
class SampleFile:
    """The file and how its lines are read."""

    path: Path
    keys: RowKeys

    def scan(self) -> Scan:
        """Count and hash the lines and collect the rewards that they name, in constant memory; UsageError."""
        digest, count, names = hashlib.sha256(), 0, dict[str, None]()
        escaped, plain = b"\\u", RM_TYPE.encode()
        for line in self._lines():
            digest.update(line)
            count += 1
            if (plain in line or escaped in line) and len(names) < MAX_RM_TYPES:
                row = _decoded(line)
                names |= dict.fromkeys(rm_types(row.get(self.keys.metadata)) if isinstance(row, dict) else ())
        return Scan(count, digest.hexdigest(), tuple(names))

    def samples(self, start: int = 0) -> Iterator[tuple[int, int, Sample | Score]]:
        """Index, bytes, and sample or error outcome of every line from `start` on."""
        for index, line in enumerate(self._lines()):
            if index >= start:
                yield index, len(line), self._read(line, index)

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                yield from file
        except OSError as error:
            raise UsageError(f"--input {self.path}: {error.strerror or error}") from error

    def _read(self, line: bytes, index: int) -> Sample | Score:
        where, keys = f"{self.path}:{index + 1}", self.keys
        row = _decoded(line)
        if isinstance(row, Exception):
            return failed(f"{where}: not a JSON object: {row}" if line.strip() else f"{where}: the line is empty")
        if not isinstance(row, dict):
            return failed(f"{where}: expected a JSON object, got {type(row).__name__}")
        if keys.response not in row:
            has = ", ".join(list(map(str, row))[:20]) or "no keys"
            return failed(f"{where}: no key {keys.response!r} (--response-key); this line has: {has}")
        response, prompt, metadata = row[keys.response], row.get(keys.prompt), row.get(keys.metadata)
        if prompt is not None and not isinstance(prompt, str | list):
            got = type(prompt).__name__
            return failed(f"{where}: {keys.prompt!r} must be a string or a list of chat messages, got {got}")
        return Sample(
            group_id=index,
            sample_id=index,
            rollout_id=index,
            prompt=prompt or "",
            prompt_tokens=[],
            label=row.get(keys.label),
            metadata=metadata if isinstance(metadata, dict) else {},
            response=response,  # a string, or else whatever the reward makes of it
            status=Status.COMPLETED,
        )


def _decoded(line: bytes) -> Any:  # Any: a JSON value, or the error that it is none
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error
