"""Flags of a command as a frozen dataclass: fields are flags, the strings under them their help."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_type_hints

from slimrl.cli.plugin_flags import PLUGIN_FLAGS_HELP
from slimrl.config.settings import Setting, did_you_mean, field_docs
from slimrl.config.words import given_flags
from slimrl.errors import ConfigError

T = TypeVar("T")

WORDS: Final = {"true": True, "false": False}


def read_flags(argv: Sequence[str], kind: type[T], more: Sequence[object] = ()) -> tuple[T, list[Any]]:
    """An instance of `kind` from a command line, and one of each of `more`, whose flags it takes too.

    `more` are dataclasses, or instances whose values stand where no flag is given. A list adds up when its flag is
    repeated, of any other flag the last one counts. Raises ConfigError with everything that is wrong.
    """
    table = {setting.name: setting for one in (kind, *more) for setting in _settings(_type(one))}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for given in given_flags(argv, problems):
        name, is_off = given.typed.replace("-", "_"), False
        if name not in table and name.startswith("no_") and _is_switch(table.get(name[3:])):
            name, is_off = name[3:], True
        setting = table.get(name)
        if setting is None:
            known = [one.replace("_", "-") for one in table]
            problems.append(f"unknown flag --{given.typed}" + did_you_mean(given.typed, known, "--"))
            continue
        try:
            value = _value(setting, given.values, is_off)
        except ValueError:
            takes = "no value" if setting.base is bool else setting.expects
            problems.append(f"--{given.typed} takes {takes}; got {given.text}")
            continue
        values[name] = (*values.get(name, ()), *value) if setting.item else value
    if problems:
        raise ConfigError(problems)
    made = []
    for one in (kind, *more):
        found = {field.name: values[field.name] for field in fields(_type(one)) if field.name in values}
        made.append(one(**found) if isinstance(one, type) else replace(cast(Any, one), **found))
    return made[0], made[1:]


def typed_settings(argv: Sequence[str]) -> dict[str, str]:
    """The settings that flags of a command line name, each with its flag."""
    names = [given.typed for given in given_flags(argv, [])]
    return {name.removeprefix("no-").replace("-", "_"): f"--{name}" for name in names} | {
        name.replace("-", "_"): f"--{name}" for name in names
    }


def wants_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return "--help" in argv or "-h" in argv


def print_help(
    usage: str, about: str, kind: type, more: Sequence[type] = (), *, takes_plugin_flags: bool = True
) -> None:
    """Write the flags with their help to stdout."""
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, 100), ""]
    for one in (kind, *more):
        lines += [] if one is kind else ["", (one.__doc__ or one.__name__).strip().splitlines()[0]]
        for setting in _settings(one):
            takes = "" if setting.base is bool else f" {_metavar(setting)}"
            default = f" Default: {setting.told_default}." if setting.told_default and setting.base is not bool else ""
            text = textwrap.wrap(setting.help + default, 76, initial_indent=" " * 6, subsequent_indent=" " * 6)
            lines += [f"  {setting.flag}{takes}", *text]
    lines += ["", *textwrap.wrap(PLUGIN_FLAGS_HELP, 100)] if takes_plugin_flags else []
    sys.stdout.write("\n".join(lines) + "\n")


def _type(one: object) -> type[Any]:
    return one if isinstance(one, type) else type(one)


def _settings(kind: type) -> Iterator[Setting]:
    hints: Mapping[str, Any] = get_type_hints(kind)
    try:
        helps = field_docs(kind)
    except (OSError, TypeError):  # a plugin's dataclass without a source
        helps = {}
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield Setting(field.name, kind.__name__, hints[field.name], default, helps.get(field.name, ""))


def _is_switch(setting: Setting | None) -> bool:
    return setting is not None and setting.base is bool


def _value(setting: Setting, words: Sequence[str], is_off: bool) -> Any:
    """The typed value; ValueError where the words are none."""
    if setting.base is bool and not words:
        return not is_off
    if setting.item is not None:
        if not words:
            raise ValueError
        return tuple(_scalar(setting.item, word) for word in words)
    (word,) = words
    if is_off:
        raise ValueError
    if setting.choices:
        if word not in setting.choices:
            raise ValueError
        return word
    return _scalar(setting.base, word)


def _scalar(kind: type, word: str) -> Any:
    if kind is bool:
        try:
            return WORDS[word.lower()]
        except KeyError:
            raise ValueError from None
    if kind in (str, Path) and not word:
        raise ValueError
    return kind(word)


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    return f"{setting.item.__name__.upper()} ..." if setting.item else str(setting.base.__name__.upper())
