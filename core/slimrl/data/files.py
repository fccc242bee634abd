"""The prompts of one or several files, and what a look through all their rows finds."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from slimrl.config.prompt_files import PromptFileSpec
from slimrl.data.epoch import Part, epoch_size
from slimrl.data.prompts import LongPromptError, PromptKeys, PromptRow
from slimrl.data.table import open_table
from slimrl.errors import DataError
from slimrl.registry.rewards import rm_types

Fits = Callable[[PromptRow, str], None]
"""Raises DataError with a row's place where its prompt cannot be used, LongPromptError where it is too long."""


class PromptFile:
    """The selected rows of one file, which stays on disk."""

    def __init__(self, spec: PromptFileSpec, keys: PromptKeys) -> None:
        self.spec = spec
        self.keys = keys
        try:
            self._table = open_table(spec.path, keys.needed, keys.optional)
        except OSError as error:
            raise DataError(f"{spec.path}: {error.strerror or error}") from error
        if len(self._table) == 0:
            raise DataError(f"{spec.path}: no prompts in it; one JSON object a line is expected")
        self.rows: range | array[int] = spec.rows(len(self._table))
        if len(self.rows) == 0:
            raise DataError(
                f"{spec.path}: the slice [{_said(spec.start)}:{_said(spec.stop)}] selects none of its "
                f"{len(self._table)} rows"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PromptRow:
        row = self.rows[index]
        return self.keys.read(self._table[row], self._table.where(row))

    def where(self, index: int) -> str:
        """file:line of a prompt, for messages."""
        return self._table.where(self.rows[index])

    def read(self) -> Iterator[tuple[int, str, PromptRow | DataError]]:
        """Every selected row in order, with its number and place; one that is malformed as its error."""
        assert isinstance(self.rows, range), "before any are left out"
        for row, value in self._table.read(self.rows):
            where = self._table.where(row)
            try:
                yield row, where, value if isinstance(value, DataError) else self.keys.read(value, where)
            except DataError as error:
                yield row, where, error

    def keep(self, rows: array[int]) -> None:
        """Leave out all other rows."""
        self.rows = rows


class PromptFiles:
    """The prompts of several files, one file after the other."""

    def __init__(self, files: Sequence[PromptFile]) -> None:
        self.files = files
        self._ends = list(accumulate(len(file) for file in files))

    @property
    def parts(self) -> list[Part]:
        """Each file's share of an epoch."""
        return [Part(len(file), file.spec.weight) for file in self.files]

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[PromptFile, int]:
        number = bisect.bisect_right(self._ends, index)
        return self.files[number], index - (self._ends[number - 1] if number else 0)

    def __getitem__(self, index: int) -> PromptRow:
        file, at = self._find(index)
        return file[at]

    def where(self, index: int) -> str:
        """file:line of a prompt."""
        file, at = self._find(index)
        return file.where(at)

    def source(self, index: int) -> str:
        """The name of the file that a prompt is in."""
        return self._find(index)[0].spec.name


@dataclass(frozen=True)
class LeftOut:
    """Rows of a file that are not used."""

    file: str
    reason: str
    """`bad` or `long`."""
    count: int
    total: int
    """Rows that were looked at."""
    first: str
    """What is wrong with the first of them, with its place."""

    def told(self) -> str:
        """One line for a terminal."""
        what = {"bad": "malformed", "long": "too long"}[self.reason]
        return f"{self.file}: {self.count:,} of {self.total:,} rows are {what} and left out; the first: {self.first}"


@dataclass(frozen=True)
class PromptScan:
    """What one pass over all rows found."""

    count: int
    """PromptFiles in an epoch."""
    rm_types: Mapping[str, str]
    """The rewards that rows name (metadata.rm_type), each with the first row (file:line) that does."""
    unnamed: str | None
    """The first row that names none."""
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Lenience:
    """Which rows are left out and counted; any other bad row is an error."""

    bad: bool = False
    long: bool = False


STRICT = Lenience()


def scan_prompts(
    prompts: PromptFiles, *, fits: Fits | None = None, lenience: Lenience = STRICT
) -> tuple[PromptFiles, PromptScan]:
    """Check every row in one pass and constant memory: the prompts that can be used, and what was found.

    Raises DataError naming file, line and key of the first bad row, or a file of which nothing is left.
    """
    found = _Found()
    for file in prompts.files:
        _scan(file, fits, lenience, found)
    kept = PromptFiles(prompts.files)
    return kept, PromptScan(epoch_size(kept.parts), found.rm_types, found.unnamed, tuple(found.left_out))


@dataclass
class _Found:
    rm_types: dict[str, str] = field(default_factory=dict)
    unnamed: str | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def _scan(file: PromptFile, fits: Fits | None, lenience: Lenience, found: _Found) -> None:
    kept, left_out = array("q"), dict[str, LeftOut]()
    path, total = str(file.spec.path), len(file)
    for row, where, value in file.read():
        try:
            if isinstance(value, DataError):
                raise value
            if fits is not None:
                fits(value, where)
        except DataError as error:
            reason = "long" if isinstance(error, LongPromptError) else "bad"
            if not (lenience.long if reason == "long" else lenience.bad):
                raise
            seen = left_out.get(reason) or LeftOut(path, reason, 0, total, str(error))
            left_out[reason] = replace(seen, count=seen.count + 1)
            continue
        names = rm_types(value.metadata)
        for name in names:
            found.rm_types.setdefault(name, where)
        if not names and found.unnamed is None:
            found.unnamed = where
        kept.append(row)
    found.left_out += left_out.values()
    if not kept:
        raise DataError([f"{path}: no prompts are left", *(entry.told() for entry in left_out.values())])
    if left_out:
        file.keep(kept)


def open_prompts(specs: Sequence[PromptFileSpec], keys: PromptKeys) -> PromptFiles:
    """The files as they are; raises DataError for one that cannot be read or of which nothing is selected."""
    return PromptFiles([PromptFile(spec, keys) for spec in specs])


def _said(bound: int | None) -> str:
    return "" if bound is None else str(bound)
