"""Folders that are written to."""

from __future__ import annotations

import os
from pathlib import Path


def cannot_be_made(folder: Path) -> str | None:
    """Why nothing can be written to a folder, as far as that can be told without trying."""
    there = folder.absolute()
    while not _is_there(there):
        there = there.parent
    if not there.is_dir():
        return f"{there} is a file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written to"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that may not be read, or a name that is too long
        return False
