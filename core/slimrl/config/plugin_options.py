"""Option dataclasses of plugins: what they may hold, and the table of a configuration file they become."""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from slimrl.config import Config

SCALARS: Final = (bool, int, float, str, Path)
SUPPORTED: Final = "bool, int, float, str, Path, Literal of strings, tuple[X, ...] of these, each also with `| None`"
COMMAND_FLAGS: Final = ("config", "help", "dry_run", "json", "p", "disable_plugin_autoload")
"""Names that commands use for flags that are no settings."""


def table_of(kind: type) -> str:
    """The table that a dataclass's options stand in: DapoOptions is [dapo], MyLengthConfig is [my_length]."""
    name = kind.__name__.removesuffix("Options").removesuffix("Config")
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return "_".join(words).lower() or kind.__name__.lower()


def core_settings() -> dict[str, str]:
    """Every name that a plugin's options cannot have, with its owner in words."""
    hints = get_type_hints(Config)
    owners = dict.fromkeys(COMMAND_FLAGS, "a flag of the command")
    for category in fields(Config):
        owners |= {field.name: f"slimrl's own, in [{category.name}]" for field in fields(hints[category.name])}
    return owners


def core_tables() -> set[str]:
    """The tables that are slimrl's own."""
    return {field.name for field in fields(Config)}


def check_options(kind: object) -> None:
    """Raise TypeError saying why `kind` cannot be turned into flags."""
    name = getattr(kind, "__qualname__", repr(kind))
    if not isinstance(kind, type) or not is_dataclass(kind):
        raise TypeError(f"slimrl_options returned {name}, which is no dataclass")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # every dataclass has it
        raise TypeError(f"{name} must be frozen: @dataclass(frozen=True)")
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.default is MISSING and field.default_factory is MISSING:
            raise TypeError(f"{name}.{field.name} has no default; every option needs one")
        if not is_supported(hints[field.name]):
            raise TypeError(f"{name}.{field.name} has the type {hints[field.name]}; an option is {SUPPORTED}")


def is_supported(hint: Any) -> bool:  # Any: an annotation
    """Whether flags and TOML can carry a value of this type."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return len(options) == 1 and is_supported(options[0])
    if get_origin(hint) is Literal:
        return all(isinstance(choice, str) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        item, *rest = (*get_args(hint), None)
        return item in SCALARS and rest[:1] == [Ellipsis]
    return hint in SCALARS


def clashes(kind: type, owners: Mapping[str, str], tables: Collection[str]) -> str | None:
    """What of this dataclass has a name that is taken, naming both; None where nothing is."""
    if table_of(kind) in tables:
        return (
            f"the options {kind.__qualname__} would be the table [{table_of(kind)}], which is taken; rename the class"
        )
    taken = [f"--{f.name.replace('_', '-')} ({owners[f.name]})" for f in fields(kind) if f.name in owners]
    return f"the options {kind.__qualname__} use names that are taken: {', '.join(taken)}" if taken else None
