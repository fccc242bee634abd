"""The record of a run: samples and metrics of its steps in the run folder, metrics also for the trackers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.run_dir import RunDir
from slimrl.protocols import Tracker
from slimrl.registry.plugin_set import PluginSet
from slimrl.types import Group

logger = logging.getLogger(__name__)


class Record:
    """Writes steps as they are trained; `start` is the first of them.

    A tracker of a plugin that raises is told of once, as an event `tracker_failed`, and left out from then on.
    """

    def __init__(self, run: RunDir, plugins: PluginSet, *, use_tensorboard: bool, start: int) -> None:
        self.run = run
        made = ((found.reference, found.make(plugins.options)) for found in plugins.trackers)
        self._trackers: dict[str, Tracker] = dict(made)
        if use_tensorboard:
            from slimrl.observe.trackers.tensorboard import TensorBoardTracker

            self._trackers["tensorboard"] = TensorBoardTracker(run.tensorboard, purge_step=start)

    def samples(self, step: int, groups: Sequence[Group], advantages: Mapping[int, float]) -> None:
        """Write a step's samples, with the advantages of those that were trained on."""
        write_rollout(self.run.rollouts, step, groups, advantages)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step's metrics, if there are any."""
        if not metrics:
            return
        self.run.log_metrics(step, metrics)
        self._tell(lambda tracker: tracker.log(step, metrics))

    def close(self) -> None:
        """End the trackers."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # a plugin's edge: a service that is down must not end a run
                del self._trackers[name]
                logger.warning("tracker %s is left out from now on: %r", name, error, exc_info=error)
                self.run.event("tracker_failed", tracker=name, reason=repr(error))
