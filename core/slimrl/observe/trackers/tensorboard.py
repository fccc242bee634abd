"""Metrics as TensorBoard events in the run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path


class TensorBoardTracker:
    """Implements Tracker; `purge_step` hides what an interrupted run wrote from that step on.

    Writes through tensorboard's own event files: torch's SummaryWriter would bring torch into a process without it.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if purge_step:
            # readers drop what earlier files of the folder have from this step on
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's metrics."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._writer.add_event(event)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
