"""`python -m slimrl` is the command `slimrl`."""

from __future__ import annotations

import sys

from slimrl.cli.main import main

if __name__ == "__main__":  # a process that spawns others imports this again
    sys.exit(main())
