"""Ways for new weights to reach engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimrl.sync.disk import DiskWay
from slimrl.sync.fleet import Fleet
from slimrl.sync.tensor import SharedMemoryWay
from slimrl.sync.update import UpdatePause


def open_fleet(
    urls: Sequence[str], *, external: bool, scratch: Path, hf_checkpoint: Path, pause: UpdatePause = "retract"
) -> Fleet:
    """Shared memory to the embedded engines that a run started; to any others, checkpoints in `scratch`."""
    way = DiskWay(scratch, config_source=hf_checkpoint, pause=pause) if external else SharedMemoryWay(pause=pause)
    return Fleet(urls, way)
