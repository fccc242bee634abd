"""Rows of a file that stays on disk: JSON lines or parquet, by number or from the first to the last."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimrl.errors import DataError

CHUNK_BYTES = 4 << 20
BATCH_ROWS = 256
WHITESPACE = np.frombuffer(b" \t\r\n\v\f", dtype=np.uint8)


class Table(Protocol):
    """The rows of one file; a row that is malformed raises DataError with file and line."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> dict[str, Any]: ...

    def where(self, row: int, /) -> str:
        """file:line of a row, for messages."""
        ...

    def read(self, rows: range, /) -> Iterator[tuple[int, Any]]:
        """Each of the rows with its number, in order: the row, or the DataError that reading it raised."""
        ...


def open_table(path: Path, needed: Collection[str], optional: Collection[str]) -> Table:
    """The file as a table, by its suffix; of parquet only the columns that are named are read."""
    if path.suffix == ".parquet":
        return Parquet(path, needed, optional)
    return JsonLines(path)


class JsonLines:
    """JSON objects, one a line; blank lines are no rows.

    Lines are read and parsed on access: a column type inferred over the whole file would turn 1 and "1" into one
    type and give every row's metadata the keys of all others. Eight bytes a line are kept in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._starts, self._lines = _index(self._file)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._lines is None else len(self._lines)

    def _line(self, row: int) -> int:
        return row if self._lines is None else int(self._lines[row])

    def where(self, row: int) -> str:
        """file:line of a row."""
        return f"{self.path}:{self._line(row) + 1}"

    def __getitem__(self, row: int) -> dict[str, Any]:
        line = self._line(row)
        start, stop = int(self._starts[line]), int(self._starts[line + 1])
        return self._parse(_read_at(self._file, start, stop - start), row)

    def read(self, rows: range) -> Iterator[tuple[int, Any]]:
        """Each row with its number, or what is wrong with it; many lines are read at once."""
        for at in range(0, len(rows), BATCH_ROWS):
            batch = rows[at : at + BATCH_ROWS]
            first = int(self._starts[self._line(batch[0])])
            text = _read_at(self._file, first, int(self._starts[self._line(batch[-1]) + 1]) - first)
            for row in batch:
                line = self._line(row)
                raw = text[int(self._starts[line]) - first : int(self._starts[line + 1]) - first]
                try:
                    yield row, self._parse(raw, row)
                except DataError as error:
                    yield row, error

    def _parse(self, raw: bytes, row: int) -> dict[str, Any]:
        try:
            value = json.loads(raw.decode("utf-8-sig" if row == 0 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(row)}: not a JSON object: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{self.where(row)}: expected a JSON object, got {type(value).__name__}")
        return value


def _read_at(file: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(file, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _index(file: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Where each line begins, then where the file ends; and which lines are rows, None: all of them."""
    found: list[NDArray[np.int64]] = []
    suspects: list[NDArray[np.int64]] = []  # where lines begin that begin with white space
    offset, begun = 0, np.zeros(1, np.int64)  # of the lines that begin behind the chunk before
    while chunk := os.pread(file, CHUNK_BYTES, offset):
        text = np.frombuffer(chunk, np.uint8)
        starts = np.concatenate([begun, np.flatnonzero(text == ord("\n")) + (offset + 1)])
        end = offset + len(chunk)
        begun, starts = starts[starts == end], starts[starts < end]
        found.append(starts)
        suspects.append(starts[np.isin(text[starts - offset], WHITESPACE)])
        offset = end
    starts = np.concatenate([*found, np.asarray([offset])])
    lines = np.searchsorted(starts, np.concatenate(suspects)).tolist() if suspects else []
    blank = [line for line in lines if not _read_line(file, starts, line).strip()]
    if not blank:
        return starts, None
    return starts, np.delete(np.arange(len(starts) - 1), blank)


def _read_line(file: int, starts: NDArray[np.int64], line: int) -> bytes:
    return _read_at(file, int(starts[line]), int(starts[line + 1] - starts[line]))


class Parquet:
    """Rows of a parquet file: read in batches, or by number from a memory-mapped Arrow copy in `datasets`' cache."""

    def __init__(self, path: Path, needed: Collection[str], optional: Collection[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a parquet file: {error}") from error
        names = self._file.schema_arrow.names
        wanted = {*needed, *optional}
        # where one is missing, all are read: the message about it names what there is
        self._columns = names if set(needed) - set(names) else [name for name in names if name in wanted]
        self._mapped: Any = None  # datasets has no types

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def where(self, row: int) -> str:
        """file:row, counted from 1."""
        return f"{self.path}:{row + 1}"

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self._mapped is None:
            import datasets

            datasets.disable_progress_bars()
            self._mapped = datasets.load_dataset(
                "parquet", data_files=str(self.path), columns=self._columns, split="train"
            )
        (value,) = self._mapped.data.slice(row, 1).to_pylist()
        return dict(value)

    def read(self, rows: range) -> Iterator[tuple[int, Any]]:
        """Each row with its number; a batch of them is in memory at a time."""
        row = 0
        for batch in self._file.iter_batches(batch_size=BATCH_ROWS, columns=self._columns):
            if row >= rows.stop:
                return
            if row + batch.num_rows > rows.start:
                for number, value in enumerate(batch.to_pylist(), start=row):
                    if number in rows:
                        yield number, value
            row += batch.num_rows
