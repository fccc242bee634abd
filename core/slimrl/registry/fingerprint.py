"""What exactly was resolved: source hashes, the rows of plugins.lock and one fingerprint of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path


def source_hash(file: Path, *, is_in_package: bool) -> str:
    """SHA-256 of a plugin's source: its file, and where it is part of a package every module of that package."""
    digest = hashlib.sha256()
    root = package_root(file) if is_in_package else file.parent
    for path in sorted(_modules(root)) if is_in_package else [file]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def package_root(file: Path) -> Path:
    """The folder of the outermost regular package that a module is in; its own folder in a namespace package."""
    root = file.parent
    while (root / "__init__.py").exists() and (root.parent / "__init__.py").exists():
        root = root.parent
    return root


def _modules(folder: Path) -> Iterator[Path]:
    """Every .py file below; folders that cannot be packages (`__pycache__`, `.venv`) are left out."""
    for path in folder.iterdir():
        if path.suffix == ".py" and path.is_file():
            yield path
        elif path.name.isidentifier() and path.name != "__pycache__" and path.is_dir() and not path.is_symlink():
            yield from _modules(path)


def fingerprint(lock: Sequence[Mapping[str, object]], options: Iterable[object] = ()) -> str:
    """One hash of all rows and of the plugins' options.

    Paths do not count: two machines may keep the same plugin in different folders.
    """
    rows = [{key: value for key, value in row.items() if key not in ("file", "reference")} for row in lock]
    settings = sorted(_settings(instance) for instance in options)
    return hashlib.sha256(json.dumps([rows, settings], sort_keys=True).encode()).hexdigest()


def _settings(instance: object) -> str:
    kind = type(instance)
    values = {f.name: repr(getattr(instance, f.name, None)) for f in fields(instance)} if is_dataclass(instance) else {}
    return json.dumps([kind.__module__, kind.__qualname__, values], sort_keys=True)
