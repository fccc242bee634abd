"""Logging of one process into the run folder."""

from __future__ import annotations

import logging
from pathlib import Path


def log_to(path: Path) -> None:
    """Send this process's log, from INFO on, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request otherwise
