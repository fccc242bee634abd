"""`slimrl serve`: one model behind SGLang's HTTP contract."""

from __future__ import annotations

from collections.abc import Sequence

from slimrl.engines.embedded.launch import launch


def main(argv: Sequence[str]) -> int:
    """Serve until stopped; takes the flags of `python -m slimrl.engines.embedded`."""
    return launch(argv, "slimrl serve")
