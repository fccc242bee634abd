"""`python -m slimrl.engines.embedded`: serve one model."""

from __future__ import annotations

import sys

from slimrl.engines.embedded.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
