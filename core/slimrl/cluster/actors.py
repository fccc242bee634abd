"""The Ray actors of a run, each a thin shell around a class that knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slimrl.config.sft import is_sft
from slimrl.engines.process import EngineSettings
from slimrl.engines.processes import EngineProcesses
from slimrl.observe.logs import log_to
from slimrl.observe.run_dir import RunDir
from slimrl.registry import Options, PluginReferences, resolve_all
from slimrl.rollout.settings import RolloutSettings
from slimrl.types import TrainBatch, TrainReport

if TYPE_CHECKING:
    from slimrl.cluster.care import Care
    from slimrl.rollout.manager import RolloutManager


@dataclass(frozen=True)
class PluginPass:
    """What every process needs to hold the same plugins as the driver; `fingerprint` proves it."""

    references: PluginReferences
    options: Options
    fingerprint: str


class EngineActor:
    """Keeps the engine servers; each is a process of its own that anything can speak HTTP to."""

    def __init__(self, settings: EngineSettings, num_engines: int, logs: Path) -> None:
        log_to(logs / "engines.log")
        self._processes = EngineProcesses(settings, num_engines, logs)

    def start(self) -> list[str]:
        """Start all servers; returns their URLs once they answer."""
        return self._processes.start()

    def restart(self, number: int) -> str:
        """Start one server anew; returns its URL once it answers."""
        return self._processes.restart(number)

    def stop(self) -> None:
        """End all servers."""
        self._processes.stop()


class ManagerActor:
    """The rollout manager in a process of its own."""

    def __init__(self, settings: RolloutSettings, plugins: PluginPass, run: Path, *, start: int) -> None:
        log_to(RunDir(run).logs / "manager.log")
        self._settings = settings
        self._plugins = resolve_all(plugins.references, plugins.options, expected_fingerprint=plugins.fingerprint)
        self._run = RunDir(run)
        self._start = start

    async def connect(self, engine_urls: Sequence[str], care: Care, checkpoint: Path | None) -> None:
        """Read the data, find the engines, warm the reward's workers, go on from a checkpoint."""
        from slimrl.rollout.open_manager import open_manager
        from slimrl.rollout.sft import ConversationManager

        if is_sft(self._settings.rollout):
            self._manager: RolloutManager | ConversationManager = ConversationManager(
                self._settings, self._plugins, self._run, start=self._start
            )
        else:
            self._manager = await open_manager(
                self._settings, self._plugins, engine_urls, care, self._run, start=self._start
            )
        if checkpoint is not None:
            self._manager.restore(checkpoint)

    async def generate(self, step: int, version: int) -> tuple[TrainBatch, dict[str, float]]:
        """One batch and its metrics."""
        return await self._manager.generate(step, version)

    @property
    def _with_engines(self) -> RolloutManager:
        from slimrl.rollout.manager import RolloutManager

        assert isinstance(self._manager, RolloutManager), "without engines nothing is published or evaluated"
        return self._manager

    async def publishing(self) -> None:
        """The engines are about to get new weights."""
        self._with_engines.publishing()

    async def published(self, version: int, failed: Mapping[int, str]) -> None:
        """The engines have new weights, but for those that `failed`, by number with the reason."""
        self._with_engines.published(version, failed)

    async def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of the evaluation sets."""
        return await self._with_engines.evaluate(step)

    async def record(self, step: int, metrics: Mapping[str, float], report: TrainReport, batch: TrainBatch) -> None:
        """Write a trained step into the run folder."""
        self._manager.record(step, metrics, report, batch)

    async def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics that belong to no trained step."""
        self._manager.log(step, metrics)

    async def save(self, folder: Path) -> None:
        """Write data position and buffer."""
        self._manager.save(folder)

    async def close(self) -> None:
        """End workers, client and trackers."""
        await self._manager.close()
