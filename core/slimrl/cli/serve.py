"""`slimrl serve`: one model behind SGLang's HTTP contract."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Serve until stopped; takes the flags of `python -m slimrl.engines.embedded`."""
    # torch is loaded here, not by `slimrl --help`
    from slimrl.engines.embedded import server

    return server.main(argv, prog="slimrl serve")
