"""Starts the server in this process, which must not have loaded torch yet."""

from __future__ import annotations

import os
from collections.abc import Sequence


def launch(argv: Sequence[str], prog: str) -> int:
    """Serve with these flags until stopped; returns the exit status."""
    # OpenMP's threads spin while they wait. Beside a busy process they take the core from the one they wait for:
    # on two shared cores a decode step took three to seven times the CPU time. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from slimrl.engines.embedded.server import main

    return main(argv, prog)
