"""Prompts of several files: slices, weights, rows that are left out, and a stream over them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimrl.config import RolloutConfig
from slimrl.config.prompt_files import PromptFileSpec, parse_prompt_file
from slimrl.data.files import STRICT, LeftOut, Lenience, PromptFiles, PromptScan, open_prompts, scan_prompts
from slimrl.data.prompts import LongPromptError, PromptKeys, PromptRow
from slimrl.data.source import PromptSource
from slimrl.data.training import scan_training
from slimrl.errors import DataError

KEYS = PromptKeys(input="input", label="label", metadata="metadata")


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def numbered(path: Path, count: int) -> Path:
    return write(path, *({"input": f"{path.stem}{i}", "label": i} for i in range(count)))


def scan(*words: str | Path, fits: object = None, lenience: Lenience = STRICT) -> tuple[PromptFiles, PromptScan]:
    specs = [parse_prompt_file(str(word)) for word in words]
    return scan_prompts(open_prompts(specs, KEYS), fits=fits, lenience=lenience)


def short(row: PromptRow, where: str) -> None:
    if len(str(row.prompt)) > 4:
        raise LongPromptError(f"{where}: too long")


def source(prompts: PromptFiles, *, shuffle: bool = True) -> PromptSource:
    return PromptSource(
        prompts,
        lambda row, where: [len(str(row.prompt))],
        group_size=2,
        shuffle=shuffle,
        seed=3,
        parts=prompts.parts,
        source_of=prompts.source,
    )


def test_files_follow_each_other_with_their_slices_and_lines(tmp_path: Path) -> None:
    a, b = numbered(tmp_path / "a.jsonl", 5), numbered(tmp_path / "b.jsonl", 4)
    prompts, found = scan(f"{a}@[-2:]", f"{b}@[1:3]=2")
    assert [prompts[i].prompt for i in range(4)] == ["a3", "a4", "b1", "b2"]
    assert [prompts.where(i) for i in (0, 2)] == [f"{a}:4", f"{b}:2"]
    assert [prompts.source(i) for i in (0, 2)] == ["a", "b"]
    assert (len(prompts), found.count) == (4, 2 + 2 * 2)


def test_parquet_and_json_lines_mix_and_a_json_string_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    tools = json.dumps([{"name": "f"}])
    pq.write_table(pa.table({"input": ["x"], "label": ["1"], "metadata": ['{"level": 3}'], "tools": [tools]}), path)
    prompts, _ = scan(path, numbered(tmp_path / "a.jsonl", 1))
    row = prompts[0]
    assert (row.tools, row.metadata) == ([{"name": "f"}], {"level": 3, "tools": [{"name": "f"}]})
    assert prompts[1].metadata == {}


def test_bad_rows_are_left_out_counted_and_told_when_asked(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl", {"input": "a", "label": 1}, "{", "", {"label": 2}, {"input": "b", "label": 3}, "["
    )
    with pytest.raises(DataError, match=r"p\.jsonl:2: not a JSON object"):
        scan(path)
    prompts, found = scan(path, lenience=Lenience(bad=True))
    assert [prompts[i].prompt for i in range(len(prompts))] == ["a", "b"]
    assert (found.count, prompts.where(1)) == (2, f"{path}:5")
    (left_out,) = found.left_out
    assert (left_out.reason, left_out.count, left_out.total) == ("bad", 3, 5)
    assert left_out.told().startswith(f"{path}: 3 of 5 rows are malformed and left out; the first: {path}:2: ")


def test_bad_rows_outside_of_the_slice_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", "{", {"input": "a", "label": 1}, "{")
    assert scan(f"{path}@[1:-1]")[1].count == 1


def test_long_prompts_are_an_error_or_left_out_and_their_rewards_do_not_count(tmp_path: Path) -> None:
    long = {"input": "abcdef", "label": 1, "metadata": {"rm_type": "math"}}
    path = write(tmp_path / "p.jsonl", {"input": "a", "label": 1}, long)
    with pytest.raises(LongPromptError, match=":2: too long"):
        scan(path, fits=short)
    _, found = scan(path, fits=short, lenience=Lenience(long=True))
    assert (found.count, found.rm_types) == (1, {})
    assert found.left_out == (LeftOut(str(path), "long", 1, 2, f"{path}:2: too long"),)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("blank.jsonl", "no prompts in it"),
        ("a.jsonl@[7:]", "the slice [7:] selects none of its 3 rows"),
        ("bad.jsonl", "no prompts are left"),
        ("empty.parquet", "no prompts in it"),
    ],
)
def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path, word: str, said: str) -> None:
    write(tmp_path / "blank.jsonl", "", " ")
    write(tmp_path / "bad.jsonl", "{", "[")
    numbered(tmp_path / "a.jsonl", 3)
    pq.write_table(pa.table({"input": pa.array([], pa.string()), "label": []}), tmp_path / "empty.parquet")
    with pytest.raises(DataError) as caught:
        scan(tmp_path / word, lenience=Lenience(bad=True))
    assert said in str(caught.value)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_stream_wraps_any_number_of_times_in_one_take_by_weight_and_names_its_files(
    tmp_path: Path, shuffle: bool
) -> None:
    a, b = numbered(tmp_path / "a.jsonl", 2), numbered(tmp_path / "b.jsonl", 4)
    prompts, found = scan(f"{a}=2", f"{b}@[:3]")
    assert found.count == 7
    groups = source(prompts, shuffle=shuffle).take(7 * 5)
    assert Counter(group.samples[0].prompt for group in groups) == {"a0": 10, "a1": 10, "b0": 5, "b1": 5, "b2": 5}
    assert all(group.source == str(group.samples[0].prompt)[0] for group in groups)


def test_the_position_in_a_mix_is_exact(tmp_path: Path) -> None:
    words = f"{numbered(tmp_path / 'a.jsonl', 5)}=0.4", f"{numbered(tmp_path / 'b.jsonl', 3)}=1.5"
    first = source(scan(*words)[0])
    first.take(17)
    state = json.loads(json.dumps(first.state()))
    other = source(scan(*words)[0])
    other.restore(state)
    assert other.take(30) == first.take(30)


def test_a_position_in_other_prompts_begins_the_next_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = source(scan(numbered(tmp_path / "a.jsonl", 5))[0])
    first.take(7)
    other = source(scan(numbered(tmp_path / "b.jsonl", 3))[0])
    other.restore(first.state())
    assert (other.position.epoch, other.position.offset, other.position.next_group_id) == (2, 0, 7)
    assert "an epoch of 5 prompts and the data now makes one of 3" in caplog.text


def test_messages_without_a_template_are_refused_with_their_row(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"input": "a"}, {"input": [{"role": "user", "content": "b"}]})
    with pytest.raises(DataError, match=r":2: 'input' is a list of chat messages; add --apply-chat-template"):
        scan_training([PromptFileSpec(path)], RolloutConfig(), None)
    assert scan_training([PromptFileSpec(path)], RolloutConfig(apply_chat_template=True), None).count == 2
