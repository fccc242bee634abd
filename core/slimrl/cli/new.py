"""`slimrl new`: a plugin distribution that works as it stands, to start from."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from slimrl.errors import UsageError
from slimrl.registry import load
from slimrl.scaffold.distribution import KITS, write_distribution

USAGE: Final = f"usage: slimrl new {'|'.join(KITS)} NAME [--path DIR]"
HELP: Final = f"""{USAGE}

Writes the distribution rl-KIND-NAME into a folder of that name: pyproject.toml with the entry point, a module with a
plugin that works, tests that run the conformance checks, and a README. --path says below which folder (default: here).
"""


def main(argv: Sequence[str]) -> int:
    """Write the distribution and print what to do next; raises UsageError."""
    words = list(argv)
    if {"-h", "--help"} & set(words):
        sys.stdout.write(HELP)
        return 0
    parent = _take_path(words)
    if unknown := [word for word in words if word.startswith("-")]:
        close = difflib.get_close_matches(unknown[0], ["--path"], n=1)
        raise UsageError(f"unknown flag {unknown[0]}" + (f"; did you mean {close[0]}?" if close else f"; {USAGE}"))
    if len(words) != 2:
        raise UsageError(USAGE)
    word, name = words
    if word not in KITS:
        close = difflib.get_close_matches(word, KITS, n=1)
        raise UsageError(
            f"cannot write a new {word!r}; "
            + (f"did you mean {close[0]}?" if close else f"there are: {', '.join(KITS)}")
        )
    folder = write_distribution(word, name, parent, load(warn=False))
    sys.stdout.write(f"{folder}\n\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n")
    return 0


def _take_path(words: list[str]) -> Path:
    for place, word in enumerate(words):
        if word.startswith("--path="):
            del words[place]
            return Path(word.removeprefix("--path="))
        if word == "--path":
            if place + 1 == len(words):
                raise UsageError(f"--path takes a folder; {USAGE}")
            path = Path(words[place + 1])
            del words[place : place + 2]
            return path
    return Path()
