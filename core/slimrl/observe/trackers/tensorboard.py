"""Metrics as TensorBoard events in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class TensorBoardTracker:
    """Implements Tracker; `purge_step` hides what an interrupted run wrote from that step on."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step or None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's metrics."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
