"""Configuration files: a TOML table per category, a key per setting."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimrl.config import Config
from slimrl.config.settings import Setting, did_you_mean, flatten, settings


def read_toml(path: Path, table: Mapping[str, Setting], problems: list[str]) -> dict[str, Any]:
    """The values of a file by setting name; what is wrong with it is added to `problems`."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"--config {path}: {error.strerror or error}")
        return {}
    except ValueError as error:  # not TOML, or not UTF-8
        problems.append(f"--config {path}: not a TOML file: {error}")
        return {}
    values: dict[str, Any] = {}
    names = {setting.category for setting in table.values()}
    for key, content in document.items():
        if key not in names:
            problems.append(f"{path}: " + _stray(key, content, names, table))
        elif not isinstance(content, dict):
            problems.append(f"{path}: [{key}] must be a table, got {content!r}")
        else:
            for name, value in content.items():
                _take(values, key, name, value, table, f"{path}: ", problems)
    return values


def _stray(key: str, content: object, names: set[str], table: Mapping[str, Setting]) -> str:
    setting = table.get(key.replace("-", "_"))
    if setting is not None:
        return f"key {key!r} stands outside of a table; it belongs in [{setting.category}]"
    if isinstance(content, dict):
        return f"unknown table [{key}]" + (did_you_mean(key, names) or f"; there are: {', '.join(sorted(names))}")
    return f"unknown key {key!r}" + did_you_mean(key, table)


def _take(
    values: dict[str, Any],
    category: str,
    key: str,
    value: object,
    table: Mapping[str, Setting],
    where: str,
    problems: list[str],
) -> None:
    name = key.replace("-", "_")
    setting = table.get(name)
    if setting is None:
        problems.append(f"{where}unknown key {key!r} in [{category}]" + did_you_mean(name, table))
    elif setting.category != category:
        problems.append(f"{where}key {key!r} stands in [{category}]; it belongs in [{setting.category}]")
    elif name in values:
        problems.append(f"{where}key {key!r} in [{category}] is given twice, with - and with _")
    else:
        try:
            values[name] = _coerce(value, setting)
        except TypeError:
            problems.append(f"{where}key {key!r} in [{category}] must be {setting.expects}, got {value!r}")


def _coerce(value: object, setting: Setting) -> Any:
    """The value in the setting's type; raises TypeError."""
    if setting.choices:
        if value not in setting.choices:
            raise TypeError
        return value
    if setting.item is not None:
        if setting.repeats and isinstance(value, str):  # one file alone
            value = [value]
        if not isinstance(value, list):
            raise TypeError
        return tuple(_scalar(entry, setting.item) for entry in value)
    return _scalar(value, setting.base)


def _scalar(value: object, kind: type) -> Any:
    # bool is an int to Python and not to a reader
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str) and value:  # an empty one would be the working directory
        return Path(value)
    if type(value) is not kind:
        raise TypeError
    return value


def to_toml(config: Config, origins: Mapping[str, str], options: Sequence[object] = ()) -> str:
    """A file that parses back to `config` and to the plugins' `options`, with each value's origin as a comment.

    Derived and unset values are comments as a whole: reading the file derives them again, so that a flag given
    over the file does not meet a stale one. So are the defaults of plugins: the file can be read without a plugin
    that nothing was said to.
    """
    values = flatten(config, options)
    own = set(flatten(config))
    table = settings([type(instance) for instance in options])
    tables = {s.category for s in table.values() if s.name in own or origins.get(s.name, "default") != "default"}
    lines: list[str] = []
    category = ""
    for setting in table.values():
        if setting.category != category:
            category = setting.category
            heading = f"[{category}]" if category in tables else f"# [{category}]"
            lines += ["", heading] if lines else [heading]
        value, origin = values[setting.name], _comment(origins.get(setting.name, "default"))
        if value is None:
            lines.append(f"# {setting.name} is unset")
        elif origin == "derived" or (origin == "default" and setting.name not in own):
            lines.append(f"# {setting.name} = {_literal(value)}  # {origin}")
        else:
            lines.append(f"{setting.name} = {_literal(value)}  # {origin}")
    return "\n".join(lines) + "\n"


def _comment(origin: str) -> str:
    """An origin on one line: a file's name may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in origin)


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, Path)):
        # TOML's basic strings are JSON's, except that DEL must be escaped and surrogate pairs must not appear
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(entry) for entry in value) + "]"
    return repr(value)
