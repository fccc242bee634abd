"""`slimrl plugins`: what is installed, what is not usable and why; `slimrl plugins info NAME` tells all of one."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, cast

from slimrl.cli.plugin_flags import PLUGIN_FLAGS_HELP, take_plugin_flags
from slimrl.config import Config
from slimrl.config.settings import did_you_mean
from slimrl.errors import PluginError, UsageError
from slimrl.registry.description import Description, describe
from slimrl.registry.discover import discover, problems_of
from slimrl.registry.kinds import KIND_NAMES, RUN_HOOK_NAMES, AnyKind
from slimrl.registry.listing import OptionRow, PluginRow, rows
from slimrl.registry.resolve import Registry
from slimrl.registry.selection import names_plugin

KINDS: Final = (*KIND_NAMES, *RUN_HOOK_NAMES)
FLAGS: Final = ("--json", "--kind", "--help")
HELP: Final = f"""usage: slimrl plugins [--kind KIND] [--json]
       slimrl plugins info NAME [--kind KIND] [--json]

List the installed plugins, or tell everything of one: a name, distribution/name, an entry point, a distribution,
or a reference by path (pkg.mod:attr, path/to/file.py:attr).

  --kind KIND  one of {", ".join(KIND_NAMES)};
               of a reference by path also one of {", ".join(RUN_HOOK_NAMES)}
  --json       print JSON

{PLUGIN_FLAGS_HELP}
"""


@dataclass(frozen=True)
class _Asked:
    name: str | None
    kind: AnyKind | None
    is_json: bool


def main(argv: Sequence[str]) -> int:
    """List plugins or describe one; raises UsageError for wrong words and unknown names."""
    selection, words = take_plugin_flags(argv)
    if "--help" in words or "-h" in words:
        sys.stdout.write(HELP)
        return 0
    asked = _read(words)
    catalogue = discover(None, selection)
    for note in (*catalogue.notes, *problems_of(catalogue, selection)):
        sys.stderr.write(f"warning: {note}\n")
    listed = rows(catalogue)
    if asked.name is not None:
        return _info(asked, Registry(catalogue), listed)
    chosen = [row for row in listed if asked.kind in (None, row.kind) or row.kind is None]
    if asked.is_json:
        _print_json([row.as_dict() for row in chosen])
    else:
        _print_table(chosen)
    return 0


def _read(words: Sequence[str]) -> _Asked:
    rest, names = list(words), []
    kind: str | None = None
    is_json = False
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if word == "--json" and not equals:
            is_json = True
        elif word == "--kind":
            kind = value if equals else (rest.pop(0) if rest else "")
            if kind not in KINDS:
                near = did_you_mean(kind.replace("-", "_"), KINDS)
                raise UsageError(f"--kind takes one of {', '.join(KINDS)}; got {kind!r}{near}")
        elif word.startswith("-"):
            raise UsageError(f"unknown flag {word}{did_you_mean(word, FLAGS)}")
        else:
            names.append(f"{word}{equals}{value}")
    if names and names[0] != "info":
        raise UsageError(f"unknown word {names[0]!r}; write slimrl plugins, or slimrl plugins info {names[0]}")
    if names and len(names) != 2:
        raise UsageError("slimrl plugins info takes one NAME")
    return _Asked(names[1].strip() if names else None, cast(AnyKind | None, kind), is_json)


def _info(asked: _Asked, registry: Registry, listed: Sequence[PluginRow]) -> int:
    assert asked.name is not None, "main has looked"
    found: list[tuple[PluginRow | None, Description | None]] = []
    for row in _named(asked.name, asked.kind, listed):
        usable = row.kind is not None and row.status in ("ok", "conflict") and row.reason != "offers nothing by name"
        found.append((row, _describe(registry, cast(AnyKind, row.kind), row.qualified_name) if usable else None))
    if not found:
        found = [(_row_of(asked, registry, listed), _described_elsewhere(asked, registry, listed))]
    if asked.is_json:
        documents = [_document(row, description) for row, description in found]
        _print_json(documents[0] if len(documents) == 1 else documents)
    else:
        sys.stdout.write("\n".join(_text(row, description) for row, description in found))
    return 0


def _named(name: str, kind: AnyKind | None, listed: Sequence[PluginRow]) -> list[PluginRow]:
    """The rows of an offered name; failing that those of an entry point or a distribution."""
    right = [row for row in listed if kind in (None, row.kind) or row.kind is None]
    offered = [row for row in right if names_plugin(name, row.name, row.distribution, also_alone=False)]
    offered += [row for row in right if row.name == name and row not in offered]
    return offered or [row for row in right if names_plugin(name, row.entry_point, row.distribution)]


def _described_elsewhere(asked: _Asked, registry: Registry, listed: Sequence[PluginRow]) -> Description:
    """A reference by path, or a name with a prefix; PluginError with the nearest names of every kind otherwise."""
    name = cast(str, asked.name)
    try:
        return _describe(registry, asked.kind or "reward", name)
    except PluginError:
        is_path = ":" in name or name.endswith(".py") or ("." in name and "/" not in name)
        if asked.kind is not None or is_path:
            raise
    near = difflib.get_close_matches(name, [n for row in listed for n in (row.name, row.entry_point)], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    installed = ", ".join(dict.fromkeys(row.name for row in listed))
    raise UsageError(f"there is no plugin {name!r}{hint}\n  installed: {installed}")


def _row_of(asked: _Asked, registry: Registry, listed: Sequence[PluginRow]) -> PluginRow | None:
    """The row behind a name with the prefix `boxed_`."""
    try:
        resolved = registry.resolve(asked.kind or "reward", cast(str, asked.name))
    except PluginError:
        return None
    inner = f"{resolved.distribution}/{resolved.name.removeprefix('boxed_')}"
    return next((row for row in listed if row.kind == "reward" and row.qualified_name == inner), None)


def _describe(registry: Registry, kind: AnyKind, reference: str) -> Description:
    configuration = Config()
    sys.path.append(str(Path.cwd()))  # as for a run: modules next to the command are found
    resolved = registry.resolve(kind, reference)
    parts = [getattr(configuration, field.name) for field in fields(configuration)]
    return describe(resolved, registry.catalogue.option_types, parts)


def _document(row: PluginRow | None, description: Description | None) -> dict[str, Any]:  # Any: JSON values
    return {**(row.as_dict() if row else {}), **(description.as_dict() if description else {})}


def _print_json(document: object) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def _text(row: PluginRow | None, description: Description | None) -> str:
    lines: list[tuple[str, str]] = []
    if row is not None:
        lines += [("kind", row.kind or "unknown"), ("from", f"{row.distribution} {row.version}, {row.module}")]
        lines += [("entry point", row.entry_point), ("status", row.status + (f": {row.reason}" if row.reason else ""))]
    if description is not None:
        is_async = {None: "", True: ", async", False: ""}[description.is_async]
        called_as = f"{description.signature} ({description.shape}{is_async})"
        lines += [("reference", description.reference), ("called as", called_as.strip())]
        said = [name if value is True else f"{name}={value}" for name, value in description.traits.items() if value]
        lines += [("traits", ", ".join(said) or "none")] if description.traits else []
        lines += [("file", description.file or "unknown"), ("sha256", description.sha256 or "unknown")]
        lines += [("use", use) for use in description.use]
        lines += [("problem", description.problem)] if description.problem else []
    title = description.reference if description else cast(PluginRow, row).qualified_name
    text = title + "\n" + "".join(f"  {name:<12}{value}\n" for name, value in lines)
    if row is not None and row.options:
        text += "  options\n" + "".join(_option(option) for option in row.options)
    if description is not None and description.doc:
        text += "\n" + "".join(f"  {line}\n" if line else "\n" for line in description.doc.splitlines())
    return text


def _option(option: OptionRow) -> str:
    default = "" if option.default in (None, []) else f" Default: {json.dumps(option.default)}."
    return f"    {option.flag} ([{option.table}], {option.expects})\n      {option.help}{default}\n"


def _print_table(listed: Sequence[PluginRow]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns: dict[str, Callable[[PluginRow], str]] = {
        "kind": lambda row: row.kind or "?",
        "name": lambda row: row.name,
        "distribution": lambda row: f"{row.distribution} {row.version}",
        "module": lambda row: row.module,
        "status": lambda row: row.status + (f": {row.reason}" if row.reason else ""),
        "options": lambda row: " ".join(option.flag for option in row.options),
    }
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in listed:
        style = {"ok": "", "disabled": "dim", "conflict": "yellow", "broken": "red"}[row.status]
        # Text: a reason may hold [brackets], which rich would read as markup
        table.add_row(*(Text(cell(row), style) for cell in columns.values()))
    # a pipe has no width: nothing is wrapped for the next program
    Console(width=None if sys.stdout.isatty() else 100_000).print(table)
