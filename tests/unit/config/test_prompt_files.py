"""Words of --prompt-data: path, slice and weight."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.config.flags import parse
from slimrl.config.prompt_files import PromptFileSpec, parse_prompt_file
from slimrl.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a.jsonl", PromptFileSpec(Path("a.jsonl"))),
        ("a.jsonl@[2:5]", PromptFileSpec(Path("a.jsonl"), 2, 5)),
        ("a.jsonl@[:-3]", PromptFileSpec(Path("a.jsonl"), None, -3)),
        ("d/a.parquet@[-10:]=0.25", PromptFileSpec(Path("d/a.parquet"), -10, None, 0.25)),
        ("a.jsonl=2", PromptFileSpec(Path("a.jsonl"), weight=2.0)),
        ("key=value/a.jsonl", PromptFileSpec(Path("key=value/a.jsonl"))),
    ],
)
def test_a_word_is_a_path_a_slice_and_a_weight(text: str, spec: PromptFileSpec) -> None:
    assert parse_prompt_file(text) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.jsonl=0", "the weight must be a number above 0; got '0'"),
        ("a.jsonl=inf", "the weight must be"),
        ("a.jsonl=x", "the weight must be a number above 0; got 'x'"),
        ("a.jsonl@[1]", "a slice is @[a:b] with whole numbers"),
        ("a.jsonl@[1:x]=2", "a slice is @[a:b]"),
    ],
)
def test_a_wrong_slice_or_weight_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_prompt_file(text)
    assert str(caught.value).startswith(f"--prompt-data {text}: ")
    assert said in str(caught.value)


def test_a_file_of_exactly_that_name_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a@[0:1]=2"
    path.touch()
    assert parse_prompt_file(str(path)) == PromptFileSpec(path)


@given(a=st.none() | st.integers(-9, 9), b=st.none() | st.integers(-9, 9), count=st.integers(0, 7))
def test_a_slice_selects_what_pythons_does(a: int | None, b: int | None, count: int) -> None:
    bounds = ["" if bound is None else str(bound) for bound in (a, b)]
    spec = parse_prompt_file(f"a.jsonl@[{bounds[0]}:{bounds[1]}]")
    assert list(spec.rows(count)) == list(range(count))[a:b]


def test_the_flag_takes_several_files_and_may_be_repeated() -> None:
    words = ["--prompt-data", "a.jsonl=2", "b.jsonl@[:5]", "--prompt-data=c.jsonl=0.5"]
    assert parse(words).config.rollout.prompt_data == ("a.jsonl=2", "b.jsonl@[:5]", "c.jsonl=0.5")


def test_a_configuration_file_may_hold_one_or_a_list(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for said, expected in (('"a.jsonl"', ("a.jsonl",)), ('["a.jsonl=2", "b.jsonl"]', ("a.jsonl=2", "b.jsonl"))):
        file.write_text(f"[rollout]\nprompt-data = {said}\n")
        assert parse(["--config", str(file)]).config.rollout.prompt_data == expected
