"""Tables on disk: rows by number and in order, of JSON lines and parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.data import table
from slimrl.data.table import JsonLines, open_table
from slimrl.errors import DataError

LINES = st.lists(
    st.sampled_from(["", " ", "\t ", "\r", '{"a": 1}', ' {"b": "é你"}', '{"c": [1, {"d": null}]}\r', "{broken"]),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(lines=LINES, ends=st.booleans(), chunk=st.integers(1, 40))
def test_rows_are_the_lines_that_are_not_blank_however_the_file_is_read(
    lines: list[str], ends: bool, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "p.jsonl"
    path.write_bytes(("\n".join(lines) + "\n" * ends).encode())
    expected = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "CHUNK_BYTES", chunk)
        patch.setattr(table, "BATCH_ROWS", 3)
        rows = JsonLines(path)
        read = list(rows.read(range(len(rows))))
    assert [rows.where(i) for i in range(len(rows))] == [f"{path}:{n}" for n, _ in expected]
    for (row, value), (_, line) in zip(read, expected, strict=True):
        if line == "{broken":
            assert isinstance(value, DataError)
            with pytest.raises(DataError):
                rows[row]
        else:
            assert value == rows[row] == json.loads(line)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert JsonLines(path)[0] == {"a": 1}


def test_a_parquet_file_gives_nested_values_by_number_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "BATCH_ROWS", 2)
    rows = [
        {"input": [{"role": "user", "content": f"q{i}"}], "label": i, "metadata": {"x": [i, i]}, "image": b"\0" * 9}
        for i in range(7)
    ]
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    found = open_table(path, ("input", "label"), ("metadata", "tools"))
    expected = [{key: row[key] for key in ("input", "label", "metadata")} for row in rows]
    assert len(found) == 7
    assert [found[i] for i in range(7)] == expected
    assert list(found.read(range(1, 6))) == list(enumerate(expected))[1:6]
    assert found.where(4) == f"{path}:5"


def test_a_parquet_file_without_a_needed_column_tells_all_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), path)
    ((_, row),) = open_table(path, ("input",), ()).read(range(1))
    assert list(row) == ["question", "answer"]


def test_what_is_no_parquet_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"p\.parquet: not a parquet file: "):
        open_table(path, (), ())
