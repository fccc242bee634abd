"""`slimrl config explain`: each setting, its value and where that came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from slimrl.cli.plugin_flags import take_plugin_flags
from slimrl.config.distillation import as_distillation
from slimrl.config.explain import Explained, explain
from slimrl.config.flags import parse
from slimrl.config.resolve import resolve
from slimrl.config.sft import as_sft
from slimrl.errors import UsageError
from slimrl.registry import load

SWITCHES = {"json": "Print JSON instead of a table."}


def main(argv: Sequence[str]) -> int:
    """Explain the settings of a command line; raises UsageError for a wrong one."""
    words = list(argv)
    if not words or words[0] != "explain":
        if words and words[0] in ("-h", "--help"):
            words = ["explain", "--help"]
        else:
            raise UsageError("usage: slimrl config explain [KEY] [--config FILE.toml] [--json] [FLAGS of train]")
    words = words[1:]
    key = words.pop(0) if words and not words[0].startswith("-") else None
    selection, words = take_plugin_flags(words)
    parsed = parse(
        words,
        prog="slimrl config explain [KEY]",
        description="Show each setting, its value and where that came from.",
        switches=SWITCHES,
        extra=load(selection=selection).catalogue.option_types,
    )
    said = as_distillation(*as_sft(parsed.config, parsed.origins))
    rows = explain(*resolve(*said), key, parsed.plugin_options)
    if "json" in parsed.switches:
        document = rows[0].as_dict() if key else [row.as_dict() for row in rows]
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    elif key:
        sys.stdout.write(_one(rows[0]))
    else:
        _print_table(rows)
    return 0


def _one(row: Explained) -> str:
    return f"{row.key} = {_text(row)}\n  from      {row.origin}\n  category  {row.category}\n  {row.help}\n"


def _text(row: Explained) -> str:
    return "(unset)" if row.value is None else json.dumps(row.value, ensure_ascii=False)


def _print_table(rows: Sequence[Explained]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("category", "key", "value", "from"):
        table.add_column(column, overflow="fold")
    for row in rows:
        style = "dim" if row.origin == "default" else ""
        # Text: a value may hold [brackets], which rich would read as markup
        table.add_row(*(Text(cell, style) for cell in (row.category, row.key, _text(row), row.origin)))
    # a pipe has no width: nothing is wrapped for the next program
    Console(width=None if sys.stdout.isatty() else 100_000).print(table)
