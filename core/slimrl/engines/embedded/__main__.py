"""`python -m slimrl.engines.embedded`: serve one model."""

from __future__ import annotations

import sys

from slimrl.engines.embedded.launch import launch

if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:], "python -m slimrl.engines.embedded"))
