"""Options of plugins as flags and TOML keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from slimrl.config.explain import explain
from slimrl.config.flags import parse
from slimrl.config.plugin_options import table_of
from slimrl.config.toml import to_toml
from slimrl.errors import ConfigError


@dataclass(frozen=True)
class ShortOptions:
    """A reward for short replies."""

    short_max_chars: int = 200
    """Characters at most."""
    short_strict: bool = False
    """Compare letter by letter."""
    short_mode: Literal["words", "chars"] = "chars"
    """What is counted."""
    short_words: tuple[str, ...] = ()
    """Words that do not count."""

    def __post_init__(self) -> None:
        if self.short_max_chars < 1:
            raise ValueError(f"short_max_chars must be 1 or more; got {self.short_max_chars}")


EXTRA = [ShortOptions]


def problems_of(*argv: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(argv, extra=EXTRA)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "table"),
    [("DapoOptions", "dapo"), ("RemoteRmOptions", "remote_rm"), ("LengthConfig", "length"), ("HTTPOptions", "http"),
     ("F1Options", "f1"), ("Options", "options")],
)  # fmt: skip
def test_a_dataclasss_table_is_its_name(name: str, table: str) -> None:
    assert table_of(type(name, (), {})) == table


def test_plugins_flags_become_an_instance_with_their_origins() -> None:
    parsed = parse(["--short-max-chars", "7", "--short_strict", "--short-words", "a", "b", "--lr", "2"], extra=EXTRA)
    assert parsed.plugin_options == (ShortOptions(7, True, "chars", ("a", "b")),)
    assert (parsed.origins["short_strict"], parsed.origins["short_mode"]) == ("flag", "default")
    assert parsed.config.optimizer.lr == 2


def test_without_flags_the_defaults_hold_and_no_turns_a_switch_off() -> None:
    assert parse([], extra=EXTRA).plugin_options == (ShortOptions(),)
    assert parse(["--short-strict", "--no-short-strict"], extra=EXTRA).plugin_options == (ShortOptions(),)


def test_values_are_checked_like_slimrls_own() -> None:
    assert problems_of("--short-max-chars", "x") == ("--short-max-chars takes a whole number; got 'x'",)
    assert problems_of("--short-mode", "x") == ("--short-mode takes one of words, chars; got 'x'",)
    assert problems_of("--short-max-chars", "0") == ("[short]: short_max_chars must be 1 or more; got 0",)


def test_an_unknown_flag_may_be_near_a_plugins() -> None:
    assert problems_of("--short-strct") == ("unknown flag --short-strct; did you mean --short-strict?",)


def test_a_file_has_a_table_for_them(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[short]\nshort-max-chars = 9\nshort_words = ["a"]\n')
    parsed = parse(["--config", str(file), "--short-max-chars", "5"], extra=EXTRA)
    assert parsed.plugin_options == (ShortOptions(5, short_words=("a",)),)
    file.write_text("[short]\nshort_max_chars = 'x'\nlr = 1\n[shrt]\n")
    assert [problem.removeprefix(f"{file}: ") for problem in problems_of("--config", str(file))] == [
        "key 'short_max_chars' in [short] must be a whole number, got 'x'",
        "key 'lr' stands in [short]; it belongs in [optimizer]",
        "unknown table [shrt]; did you mean short?",
    ]


def test_what_is_written_reads_back_and_defaults_need_no_plugin(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    parsed = parse(["--short-strict"], extra=EXTRA)
    file.write_text(to_toml(parsed.config, parsed.origins, parsed.plugin_options))
    assert parse(["--config", str(file)], extra=EXTRA).plugin_options == (ShortOptions(short_strict=True),)
    untouched = parse([], extra=EXTRA)
    file.write_text(to_toml(untouched.config, untouched.origins, untouched.plugin_options))
    assert "# short_max_chars = 200  # default" in file.read_text()
    assert parse(["--config", str(file)]).config == untouched.config


def test_explain_shows_them_with_the_rest() -> None:
    parsed = parse(["--short-max-chars", "7"], extra=EXTRA)
    (row,) = explain(parsed.config, parsed.origins, "--short-max-chars", parsed.plugin_options)
    assert (row.category, row.value, row.origin, row.help) == ("short", 7, "flag", "Characters at most.")
    assert explain(parsed.config, parsed.origins, None, parsed.plugin_options)[-1].key == "short_words"


def test_help_has_a_group_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], extra=EXTRA)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "short options" in text
    assert "A reward for short replies." in text
    assert "--short-max-chars INT Characters at most. (default: 200)" in text


def test_a_class_without_source_has_options_without_help() -> None:
    made = dataclass(frozen=True)(type("BareOptions", (), {"__annotations__": {"bare_limit": int}, "bare_limit": 3}))
    (options,) = parse(["--bare-limit", "4"], extra=[made]).plugin_options
    assert options == made(4)
