"""The record of a run: samples and metrics of its steps in the run folder, metrics also for the trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.run_dir import RunDir
from slimrl.protocols import Tracker
from slimrl.types import Group


class Record:
    """Writes steps as they are trained; `start` is the first of them."""

    def __init__(self, run: RunDir, *, use_tensorboard: bool, start: int) -> None:
        self.run = run
        self._trackers: list[Tracker] = []
        if use_tensorboard:
            from slimrl.observe.trackers.tensorboard import TensorBoardTracker

            self._trackers.append(TensorBoardTracker(run.tensorboard, purge_step=start))

    def samples(self, step: int, groups: Sequence[Group], advantages: Mapping[int, float]) -> None:
        """Write a step's samples, with the advantages of those that were trained on."""
        write_rollout(self.run.rollouts, step, groups, advantages)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step's metrics, if there are any."""
        if not metrics:
            return
        self.run.log_metrics(step, metrics)
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def close(self) -> None:
        """End the trackers."""
        for tracker in self._trackers:
            tracker.close()
