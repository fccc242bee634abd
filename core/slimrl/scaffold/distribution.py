"""One new distribution: a plugin that works, its tests, and what pip needs to know of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Final

from slimrl import __version__
from slimrl.errors import UsageError
from slimrl.registry import KINDS, Kind, Registry

MAX_NAME_CHARS: Final = 40


@dataclass(frozen=True)
class Kit:
    """What is particular to one kind of distribution."""

    kind: Kind
    flag: str
    check_flags: str
    files: tuple[str, ...] = ()
    """Templates of further files in tests/."""


KITS: Final[Mapping[str, Kit]] = MappingProxyType(
    {
        "reward": Kit("reward", "--rm-type", " --input tests/golden.jsonl", ("golden.jsonl",)),
        "filter": Kit("dynamic_filter", "--dynamic-sampling-filter-path", " --kind dynamic_filter"),
        "generator": Kit("generator", "--custom-generate-function-path", " --kind generator"),
        "advantage": Kit("advantage", "--advantage-estimator", " --kind advantage"),
    }
)
"""By the word that `slimrl new` takes, which is also in the distribution's name: rl-reward-x, rl-filter-x."""


def write_distribution(word: str, name: str, parent: Path, registry: Registry) -> Path:
    """Write the distribution rl-WORD-NAME into a new folder below `parent`; returns the folder.

    Raises UsageError for a name that cannot be one or that another package offers, and where the folder exists.
    """
    kit = KITS[word]
    _check_name(word, name)
    offer = name.replace("-", "_")
    distribution = f"rl-{word}-{name.replace('_', '-')}"
    others = [o for o in registry.catalogue.offers if o.kind == kit.kind and o.name == offer]
    if taken := [o for o in others if o.origin.distribution != distribution]:
        raise UsageError(
            f"there is a {KINDS[kit.kind].noun} {offer!r} already, from {taken[0].origin}; take another name"
        )
    folder = parent / distribution
    if folder.exists():
        raise UsageError(f"{folder} exists; remove it, take another name, or give --path DIR")
    values = {
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "entry_point": f"{word}-{name.replace('_', '-')}",
        "offer": offer,
        "noun": KINDS[kit.kind].noun,
        "flag": kit.flag,
        "check_flags": kit.check_flags,
        "version": __version__,
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        f"{values['module']}.py": f"{word}.py",
        f"tests/test_{values['module']}.py": f"test_{word}.py",
        **{f"tests/{file}": file for file in kit.files},
    }
    try:
        (folder / "tests").mkdir(parents=True)
        for path, template in files.items():
            (folder / path).write_text(_filled(template, values), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # ours: it did not exist before
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _check_name(word: str, name: str) -> None:
    if name.startswith(f"rl-{word}-"):
        raise UsageError(f"{name!r}: give the part after rl-{word}- alone; it is put in front")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > MAX_NAME_CHARS:
        raise UsageError(
            f"{name!r} cannot be a plugin's name; write lower-case words joined by dashes, at most {MAX_NAME_CHARS} "
            f"characters: {_proposal(name)}"
        )


def _proposal(name: str) -> str:
    words = re.findall(r"[a-z][a-z0-9]*", name.lower())
    return "-".join(words)[:MAX_NAME_CHARS].rstrip("-") or "short-answers"


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = resources.files("slimrl.scaffold").joinpath("templates", f"{template}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(values)
