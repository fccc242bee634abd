"""Prompt files: rows, keys and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimrl.config.prompt_files import PromptFileSpec
from slimrl.data.files import PromptFile, PromptScan, open_prompts, scan_prompts
from slimrl.data.prompts import PromptKeys
from slimrl.errors import DataError

KEYS = PromptKeys(input="input", label="label", metadata="metadata")


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_rows_keep_types_that_a_shared_column_type_would_lose(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"input": "a", "label": 1, "metadata": {"x": 1}},
        {"input": "b", "label": "1", "metadata": {"y": [1, "z"]}},
        {"input": [{"role": "user", "content": "c"}], "label": None},
    )
    rows = PromptFile(PromptFileSpec(path), KEYS)
    assert [rows[i].label for i in range(3)] == [1, "1", None]
    assert [rows[i].metadata for i in range(3)] == [{"x": 1}, {"y": [1, "z"]}, {}]
    assert rows[2].prompt == [{"role": "user", "content": "c"}]


def test_blank_lines_are_skipped_and_line_numbers_stay_true(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", "", {"input": "a", "label": 1}, "  ", {"input": "b", "label": 2})
    rows = PromptFile(PromptFileSpec(path), KEYS)
    assert len(rows) == 2 == scan(path).count
    assert rows.where(1) == f"{path}:4"


def scan(path: Path) -> PromptScan:
    return scan_prompts(open_prompts([PromptFileSpec(path)], KEYS))[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "not a JSON object"),
        ("[1]", "expected a JSON object, got list"),
        ({"input": "a"}, "no key 'label' (--label-key); this row has: input"),
        ({"label": 1}, "no key 'input' (--input-key)"),
        ({"input": "", "label": 1}, "must be a non-empty string"),
        ({"input": [{"role": "user"}], "label": 1}, "chat messages"),
        ({"input": "a", "label": 1, "metadata": "{x"}, "'metadata' (--metadata-key) is a string and not JSON"),
        ({"input": "a", "label": 1, "tools": ["x"]}, "'tools' (--tool-key) must be a list of tool schemas"),
        ({"input": "a", "label": 1, "metadata": 3}, "'metadata' (--metadata-key) must be an object, got int"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_key(tmp_path: Path, line: object, said: str) -> None:
    path = write(tmp_path / "p.jsonl", {"input": "good", "label": 0}, line)
    with pytest.raises(DataError) as error:
        scan(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert said in str(error.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompts in it"):
        scan(write(tmp_path / "p.jsonl", ""))
