"""Ways for new weights to reach engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimrl.sync.disk import DiskWay
from slimrl.sync.fleet import Fleet
from slimrl.sync.tensor import SharedMemoryWay


def open_fleet(urls: Sequence[str], *, external: bool, scratch: Path, hf_checkpoint: Path) -> Fleet:
    """Shared memory to the embedded engines that a run started; to any others, checkpoints in `scratch`."""
    return Fleet(urls, DiskWay(scratch, config_source=hf_checkpoint) if external else SharedMemoryWay())
