"""What exactly was resolved: source hashes, the rows of plugins.lock and one fingerprint of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def source_hash(file: Path, *, is_in_package: bool) -> str:
    """SHA-256 of a plugin's source: its file, and where it is part of a package the modules next to it."""
    digest = hashlib.sha256()
    files = sorted(file.parent.glob("*.py")) if is_in_package else [file]
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def fingerprint(lock: Sequence[Mapping[str, object]]) -> str:
    """One hash of all rows but for the paths: two machines may keep the same plugin in different folders."""
    rows = [{key: value for key, value in row.items() if key not in ("file", "reference")} for row in lock]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
