"""Prompt files: JSON lines, memory-mapped through `datasets`, checked row by row before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimrl.errors import DataError
from slimrl.registry.rewards import rm_types
from slimrl.types import Prompt


@dataclass(frozen=True)
class PromptRow:
    """One row of a prompt file."""

    prompt: Prompt
    label: Any = None
    """Ground truth: any JSON value; the reward knows what it means."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptKeys:
    """Under which keys a row holds what."""

    input: str
    label: str | None
    metadata: str

    def read(self, line: str, where: str) -> PromptRow:
        """Parse one line; raises DataError with `where` (file:line) and the key."""
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
        return PromptRow(
            prompt=_prompt(_value(row, self.input, "--input-key", where), self.input, where),
            label=None if self.label is None else _value(row, self.label, "--label-key", where),
            metadata=_metadata(row, self.metadata, where),
        )


def _value(row: Mapping[str, Any], key: str, flag: str, where: str) -> Any:
    if key not in row:
        raise DataError(f"{where}: no key {key!r} ({flag}); this row has: {', '.join(row) or 'no keys'}")
    return row[key]


def _prompt(value: Any, key: str, where: str) -> Prompt:
    if isinstance(value, str) and value:
        return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    ):
        return value
    raise DataError(
        f"{where}: {key!r} must be a non-empty string or a list of chat messages with role and content, "
        f"got {json.dumps(value, ensure_ascii=False)[:80]}"
    )


def _metadata(row: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = row.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{where}: {key!r} (--metadata-key) must be an object, got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class PromptScan:
    """What one pass over a prompt file found."""

    count: int
    """Prompts in it."""
    rm_types: Mapping[str, str]
    """The rewards that rows name (metadata.rm_type), each with the first row (file:line) that does."""
    unnamed: str | None
    """The first row that names none."""


def scan_prompts(path: Path, keys: PromptKeys) -> PromptScan:
    """Check every row of a file, count them and see which rewards they name, in one pass and constant memory.

    Raises DataError naming file, line and key of the first bad row, or that the file is empty.
    """
    count = 0
    named: dict[str, str] = {}
    unnamed: str | None = None
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            names = rm_types(keys.read(line, where).metadata)
            for name in names:
                named.setdefault(name, where)
            if not names and unnamed is None:
                unnamed = where
            count += 1
    if count == 0:
        raise DataError(f"{path}: no prompts in it; one JSON object a line is expected")
    return PromptScan(count, named, unnamed)


class PromptFile:
    """Random access to the rows of a JSON lines file that stays on disk.

    Lines are mapped as text and parsed on access: a column type inferred over the whole file would turn 1 and
    "1" into one type and give every row's metadata the keys of all others.
    """

    def __init__(self, path: Path, keys: PromptKeys) -> None:
        import datasets

        datasets.disable_progress_bars()
        self.path = path
        self.keys = keys
        lines = datasets.load_dataset("text", data_files=str(path), split="train")
        self._lines = lines
        self._numbers = [i for i, text in enumerate(lines["text"]) if text.strip()]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> PromptRow:
        line = self._numbers[index]
        return self.keys.read(self._lines[line]["text"], f"{self.path}:{line + 1}")

    def where(self, index: int) -> str:
        """file:line of a row, for messages."""
        return f"{self.path}:{self._numbers[index] + 1}"
