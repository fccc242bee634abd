"""The table of settings: every field of the configuration with its category, type, default and help."""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from slimrl.config import Config
from slimrl.config.plugin_options import table_of
from slimrl.errors import ConfigError

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
    repeats: bool = False
    """A list whose flag may be given several times, each adding to it; any other flag counts as it came last."""

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
    def told_default(self) -> str:
        """The default as it would be typed; empty where there is none."""
        if self.default is None:
            return ""
        if self.item is not None:
            return " ".join(map(str, self.default))
        return str(self.default).lower() if self.base is bool else str(self.default)

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return NOUNS[self.item][1] if self.item else NOUNS[self.base][0]


def settings(extra: Sequence[type] = ()) -> dict[str, Setting]:
    """Every setting by name, in the order of the dataclasses; `extra` are those of plugins."""
    table: dict[str, Setting] = {}
    for category, kind in (*categories().items(), *((table_of(kind), kind) for kind in extra)):
        hints, helps = get_type_hints(kind), field_docs(kind)
        for field in fields(kind):
            if field.name in table:  # the registry has refused such a plugin already, naming both
                raise ConfigError(
                    f"two settings are called {field.name}, in [{table[field.name].category}] and [{category}]"
                )
            default = field.default if field.default_factory is MISSING else field.default_factory()
            table[field.name] = Setting(
                field.name, category, hints[field.name], default, helps.get(field.name, ""), "repeats" in field.metadata
            )
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


def build_options(extra: Sequence[type], values: Mapping[str, Any]) -> tuple[object, ...]:
    """The option dataclasses of plugins from values by setting name; ConfigError with what they refuse."""
    made: list[object] = []
    problems: list[str] = []
    for kind in extra:
        given = {field.name: values[field.name] for field in fields(kind) if field.name in values}
        try:
            made.append(kind(**given))
        except Exception as error:  # a plugin's edge: a __post_init__ may check values
            problems.append(f"[{table_of(kind)}]: {error or type(error).__name__}")
    if problems:
        raise ConfigError(problems)
    return tuple(made)


def flatten(config: Config, options: Sequence[object] = ()) -> dict[str, Any]:
    """Every value by setting name; `options` are instances of plugins' dataclasses."""
    groups = [*(getattr(config, field.name) for field in fields(config)), *options]
    return {field.name: getattr(group, field.name) for group in groups for field in fields(group)}


def field_docs(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass, as one line; none where a plugin's class has no source to read."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        if isinstance(body, ast.ClassDef):
            docs |= dict(_docs_in(body))
    return docs


def _docs_in(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield field.target.id, " ".join(text.value.split())


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean X?` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
