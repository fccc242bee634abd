"""The processes of a run as one object: the loop calls methods, Ray stays in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slimrl.checkpoints import NewCheckpoint
from slimrl.cluster.actors import EngineActor, ManagerActor, PluginPass
from slimrl.cluster.care import Care
from slimrl.cluster.placement import place
from slimrl.cluster.trainer_actors import FollowerActor, TrainerActor, TrainerSettings
from slimrl.engines.process import EngineSettings
from slimrl.errors import SlimrlError, TrainError
from slimrl.rollout.settings import RolloutSettings
from slimrl.types import TrainReport


class BatchRef(Protocol):
    """A TrainBatch in Ray's object store."""


@dataclass(frozen=True)
class CrewSettings:
    """Everything the processes are started with."""

    engine: EngineSettings
    """How to start an embedded engine."""
    num_engines: int
    """How many of them to start; 0 without `external_engines`: the run has none."""
    external_engines: tuple[str, ...]
    """URLs of engines that run already; then none is started."""
    rollout: RolloutSettings
    trainer: TrainerSettings
    plugins: PluginPass
    run: Path
    checkpoint: Path | None
    weights: Path | None
    """Without a checkpoint: where the trainer's first weights are, if not where the model is."""
    start: int


class Crew:
    """Engines, rollout manager and trainer; each method waits for the process that does it."""

    def __init__(self, ray: Any, settings: CrewSettings) -> None:
        use_gpu = settings.trainer.device == "cuda"
        num_followers, num_machines = settings.trainer.layout.world_size - 1, settings.trainer.num_machines
        on_engine, on_trainer, on_manager, *on_followers = place(
            ray, 3, use_gpu=use_gpu, num_followers=num_followers, num_machines=num_machines
        )
        self._ray = ray
        self._logs = settings.run / "logs"
        s = settings
        followers = [
            ray.remote(FollowerActor).options(**options).remote(s.trainer, s.plugins, s.run, rank)
            for rank, options in enumerate(on_followers, start=1)
        ]
        self._trainer = ray.remote(TrainerActor).options(**on_trainer).remote(s.trainer, s.plugins, s.run, followers)
        self._manager = (
            ray.remote(ManagerActor).options(**on_manager).remote(s.rollout, s.plugins, s.run, start=s.start)
        )
        self._engines = None
        urls: Sequence[str] = s.external_engines
        self._has_engines = bool(urls) or s.num_engines > 0
        if self._has_engines and not urls:
            # one thread more than engines: `stop` does not wait for one that is being started again
            options = {**on_engine, "max_concurrency": s.num_engines + 1}
            self._engines = ray.remote(EngineActor).options(**options).remote(s.engine, s.num_engines, self._logs)
            urls = self._wait(self._engines.start.remote())
        care = Care(self._engines, self._trainer)
        self._wait(
            [
                self._manager.connect.remote(urls, care, s.checkpoint),
                self._trainer.connect.remote(
                    urls, bool(s.external_engines), s.run / "weights", s.checkpoint or s.weights, s.start
                ),
            ]
        )

    def generate(self, step: int, version: int) -> tuple[BatchRef, dict[str, float]]:
        """The batch of one step, by reference, and its metrics; `version` is that of the engine's weights."""
        batch, metrics = self._manager.generate.options(num_returns=2).remote(step, version)
        return batch, self._wait(metrics)

    def train(self, batch: BatchRef) -> TrainReport:
        """All optimizer steps of one rollout."""
        return self._wait(self._trainer.train.remote(batch))  # type: ignore[no-any-return]  # Ray has no types

    def publish(self, version: int) -> Mapping[str, float]:
        """Give the engines the trainer's weights; one that they did not reach serves no more until it has them."""
        if not self._has_engines:
            return {}
        told = self._manager.publishing.remote()
        metrics, failed = self._wait(self._trainer.publish.remote(version))
        self._wait(told)
        self._wait(self._manager.published.remote(version, failed))
        return metrics  # type: ignore[no-any-return]

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of the evaluation sets under weights that have seen `step` steps."""
        return self._wait(self._manager.evaluate.remote(step))  # type: ignore[no-any-return]

    def record(self, step: int, metrics: Mapping[str, float], report: TrainReport, batch: BatchRef) -> None:
        """Write a trained step into the run folder."""
        self._wait(self._manager.record.remote(step, metrics, report, batch))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics that belong to no trained step."""
        self._wait(self._manager.log.remote(step, metrics))

    def save(self, folder: Path) -> None:
        """Write everything that a resumed run needs."""
        self._wait_for_disk([self._trainer.save.remote(folder), self._manager.save.remote(folder)])

    def save_hf(self, folder: Path) -> None:
        """Write the trainer's weights as transformers loads them."""
        self._wait_for_disk(self._trainer.save_hf.remote(folder))

    def begin_save(self, new: NewCheckpoint, export: Path | None) -> None:
        """Copy everything that a resumed run needs; the trainer writes it, and --save-hf's folder, beside its steps."""
        self._wait_for_disk(self._manager.save.remote(new.scratch))
        self._wait(self._trainer.begin_save.remote(new, export))

    def is_saved(self) -> bool:
        """Whether the trainer is not writing; raises what went wrong with it."""
        return self._wait(self._trainer.is_saved.remote())  # type: ignore[no-any-return]

    def finish_save(self) -> None:
        """Wait for what the trainer is writing; raises what went wrong with it."""
        self._wait(self._trainer.finish_save.remote())

    def close(self) -> None:
        """End all processes; engines that were there before stay."""
        self._wait(self._manager.close.remote())
        if self._engines is not None:
            self._wait(self._engines.stop.remote())

    def _wait_for_disk(self, references: Any) -> None:
        """As `_wait`; raises the plain error of a disk, which is the user's to mend."""
        from ray.exceptions import RayTaskError

        try:
            self._wait(references)
        except RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise error.cause from None
            raise

    def _wait(self, references: Any) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return self._ray.get(references)
        except RayTaskError as error:
            if isinstance(error.cause, SlimrlError):
                raise error.cause from None  # the remote traceback is in the log; the user reads the message
            raise
        except RayActorError as error:
            raise TrainError(f"a process of the run died: {error}; its log is in {self._logs}") from error
