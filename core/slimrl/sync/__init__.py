"""Ways for new weights to reach an engine."""

from __future__ import annotations

from pathlib import Path

from slimrl.protocols import WeightTransport
from slimrl.sync.disk import DiskTransport
from slimrl.sync.tensor import SharedMemoryTransport


def open_transport(engine_url: str, *, external: bool, scratch: Path, hf_checkpoint: Path) -> WeightTransport:
    """Shared memory to the embedded engine that a run started; to any other, checkpoints in `scratch`."""
    if external:
        return DiskTransport(engine_url, scratch, config_source=hf_checkpoint)
    return SharedMemoryTransport(engine_url)
