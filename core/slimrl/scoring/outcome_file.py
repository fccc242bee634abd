"""A JSON lines file of outcomes that grows in order and can be continued after a kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from slimrl.errors import UsageError
from slimrl.types import Score

MAX_EXAMPLES: Final = 3


@dataclass
class Tally:
    """Outcomes in sum."""

    counts: Counter[str] = field(default_factory=Counter)
    """Lines by status."""
    num_values: int = 0
    sum_of_values: float = 0.0
    examples: list[str] = field(default_factory=list)
    """The first reasons why a line has no score."""

    def add(self, status: str, value: float | None, reason: str, index: int) -> None:
        """Count one line."""
        self.counts[status] += 1
        if value is not None:
            self.num_values += 1
            self.sum_of_values += value
        elif status != "scored" and len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"index {index}, {status}: {reason}")

    @property
    def mean_value(self) -> float | None:
        """The mean over the lines that have a value."""
        return self.sum_of_values / self.num_values if self.num_values else None


class OutcomeFile:
    """The file of outcomes; a context manager.

    What it was made from is kept beside it, so that outcomes of another input, or of other rewards, are never
    mixed: UsageError says what differs. Its complete lines are kept, a last line that was cut off is dropped.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.tally = Tally()
        self.num_lines = 0
        self._identity = json.loads(json.dumps(identity))
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UsageError(f"--output {self.path}: {error.strerror or error}") from error
        try:
            self._continue(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        if error is not None and self.num_lines == 0:  # what failed at once leaves nothing behind
            self.path.unlink(missing_ok=True)
            self.identity_path.unlink(missing_ok=True)

    def write(self, score: Score) -> None:
        """Append the outcome of the next line."""
        assert self._file is not None
        self._file.write(_line(self.num_lines, score))
        self.tally.add(score.status, score.value, score.reason, self.num_lines)
        self.num_lines += 1

    def flush(self) -> None:
        """Give what was written to the system: a kill does not take it back."""
        assert self._file is not None
        self._file.flush()

    @property
    def identity_path(self) -> Path:
        """Where it is kept what the outcomes were made from."""
        return self.path.with_name(f".{self.path.name}.source.json")

    def _continue(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"--output {self.path}: another slimrl score is writing it") from None
        if os.fstat(file.fileno()).st_size == 0:
            self._remember()
            return
        self._check_identity()
        file.seek(0)
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break  # cut off by a kill
            self._take(line)
            end += len(line)
        file.truncate(end)
        file.seek(0, os.SEEK_END)

    def _remember(self) -> None:
        scratch = self.identity_path.with_name(f"{self.identity_path.name}.{os.getpid()}.tmp")
        scratch.write_text(json.dumps(self._identity, indent=1) + "\n", encoding="utf-8")
        scratch.replace(self.identity_path)

    def _check_identity(self) -> None:
        way_out = "delete it, or give another --output"
        try:
            known = json.loads(self.identity_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UsageError(
                f"--output {self.path} exists and is not the beginning of these outcomes (there is no "
                f"{self.identity_path.name} beside it that says so); {way_out}"
            ) from None
        for name, value in self._identity.items():
            if known.get(name) != value:
                said = f" ({_short(known.get(name))}, now {_short(value)})"
                raise UsageError(f"--output {self.path} was made from another {name}{said}; {way_out}")

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            assert row["index"] == self.num_lines
            self.tally.add(str(row["status"]), row["value"], str(row["reason"]), self.num_lines)
        except (ValueError, KeyError, TypeError, AssertionError):
            raise UsageError(
                f"--output {self.path}:{self.num_lines + 1} is not the outcome of index {self.num_lines}; "
                f"delete the file, or give another --output"
            ) from None
        self.num_lines += 1


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _line(index: int, score: Score) -> bytes:
    fields = {
        "index": index,
        "status": score.status,
        "reward": score.reward,
        "value": score.value,
        "components": dict(score.components),
        "reason": score.reason,
        "seconds": round(score.seconds, 6),
    }
    return json.dumps(fields).encode() + b"\n"
