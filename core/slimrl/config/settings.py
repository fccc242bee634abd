"""The table of settings: every field of the configuration with its category, type, default and help."""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from slimrl.config import Config

NOUNS: Mapping[type, tuple[str, str]] = {
    bool: ("true or false", ""),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    Path: ("a path", "paths"),
}


@dataclass(frozen=True)
class Setting:
    """One field of the configuration; its flag is its name, whatever the category."""

    name: str
    category: str
    hint: Any
    """The field's annotation, evaluated: a union with None, a Literal and a tuple are not classes."""
    default: Any
    """The field's default: a value of whatever type the hint says."""
    help: str

    @property
    def flag(self) -> str:
        """The spelling on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def base(self) -> Any:
        """The hint without None: a class, a Literal or tuple[X, ...]."""
        if get_origin(self.hint) in (Union, types.UnionType):
            return next(option for option in get_args(self.hint) if option is not type(None))
        return self.hint

    @property
    def item(self) -> Any:
        """The type of one entry where the setting is a list, else None."""
        return get_args(self.base)[0] if get_origin(self.base) is tuple else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words a setting takes, where it takes words from a list."""
        return get_args(self.base) if get_origin(self.base) is Literal else ()

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return NOUNS[self.item][1] if self.item else NOUNS[self.base][0]


def settings() -> dict[str, Setting]:
    """Every setting by name, in the order of the dataclasses."""
    table: dict[str, Setting] = {}
    for category, kind in categories().items():
        hints, helps = get_type_hints(kind), field_docs(kind)
        for field in fields(kind):
            assert field.name not in table, f"two settings are called {field.name}"
            table[field.name] = Setting(field.name, category, hints[field.name], field.default, helps[field.name])
    return table


def categories() -> dict[str, type]:
    """The dataclass of every category by its name, in order."""
    hints = get_type_hints(Config)
    return {field.name: hints[field.name] for field in fields(Config)}


def build(values: Mapping[str, Any]) -> Config:
    """A configuration from values by setting name; what is not named has its default."""
    groups = {
        category: kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
        for category, kind in categories().items()
    }
    return Config(**groups)


def flatten(config: Config) -> dict[str, Any]:
    """Every value by setting name."""
    groups = [getattr(config, field.name) for field in fields(config)]
    return {field.name: getattr(group, field.name) for group in groups for field in fields(group)}


def field_docs(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass, as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            docs[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return docs


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean X?` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
