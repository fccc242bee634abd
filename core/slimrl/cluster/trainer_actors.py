"""The Ray actors of the trainer's processes."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimrl.background import Background
from slimrl.checkpoints import NewCheckpoint, new_folder, not_written
from slimrl.cluster.actors import PluginPass
from slimrl.cluster.followers import Followers
from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig, TrainedConfig
from slimrl.config.layout import Layout, recompute_of
from slimrl.errors import EngineUnreachableError, SlimrlError, UsageError
from slimrl.observe.logs import log_to
from slimrl.observe.run_dir import RunDir
from slimrl.protocols import WeightTransport
from slimrl.registry import resolve_all
from slimrl.registry.plugin_set import PluginSet
from slimrl.types import TrainBatch, TrainReport

if TYPE_CHECKING:
    from slimrl.megatron.contents import Snapshot
    from slimrl.megatron.meeting import Meeting
    from slimrl.megatron.trainer import MegatronTrainer
    from slimrl.sync.fleet import Fleet
    from slimrl.sync.update import UpdatePause


@dataclass(frozen=True)
class TrainerSettings:
    """What the trainer reads of the configuration."""

    ckpt: CkptConfig
    model: ModelConfig
    trained: TrainedConfig
    grpo: GrpoConfig
    optimizer: OptimizerConfig
    perf: PerfConfig
    rollout_temperature: float
    num_steps_per_rollout: int
    global_batch_size: int
    total_steps: int
    max_response_len: int
    max_staleness: int
    pause: UpdatePause
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    num_threads: int
    seed: int
    deterministic: bool
    layout: Layout
    num_machines: int
    """Machines that the trainer's processes are on, as many on each."""


class TrainerActor:
    """The trainer in a process of its own, or the first of its processes, which the others follow."""

    def __init__(self, settings: TrainerSettings, plugins: PluginPass, run: Path, followers: Sequence[Any]) -> None:
        log_to(RunDir(run).logs / "trainer.log")
        self._plugins = resolve_all(plugins.references, plugins.options, expected_fingerprint=plugins.fingerprint)
        self._settings = settings
        self._followers = Followers(followers, RunDir(run).logs)
        self._background = Background("save")

    def connect(
        self, engine_urls: Sequence[str], external: bool, scratch: Path, checkpoint: Path | None, start: int
    ) -> None:
        """Build the model, load its weights, which have seen `start` steps, and find the way to the engines."""
        from slimrl.sync import open_fleet

        s = self._settings
        assert s.ckpt.hf_checkpoint is not None, "checked with the configuration"
        self._num_steps = start
        self._fleet: Fleet = open_fleet(
            engine_urls, external=external, scratch=scratch, hf_checkpoint=s.ckpt.hf_checkpoint, pause=s.pause
        )
        self._followers.await_all()
        meeting = self._open_meeting() if len(self._followers) else None
        with self._followers.join("connect", meeting, checkpoint):
            self._trainer: MegatronTrainer = build_trainer(s, self._plugins, self._fleet, meeting=meeting)
            self._trainer.load(checkpoint)

    def _open_meeting(self) -> Meeting:
        if self._settings.num_machines > 1:
            import ray

            from slimrl.megatron.meeting import Host

            self._host = Host(ray.util.get_node_ip_address())
            return self._host.address
        self._meeting = tempfile.TemporaryDirectory(prefix="slimrl-trainer-")
        return Path(self._meeting.name) / "meeting"

    def train(self, batch: TrainBatch) -> TrainReport:
        """All optimizer steps of one rollout."""
        with self._followers.join("train", batch):
            report = self._trainer.train(batch)
        self._num_steps = batch.step + 1
        return report

    def publish(self, version: int) -> tuple[Mapping[str, float], Mapping[int, str]]:
        """Send the weights to the engines; returns timings, and the engines that they did not reach with the reason."""
        try:
            with self._followers.join("give_weights"):
                timings = self._trainer.publish(version)
        except EngineUnreachableError:  # they may come back
            timings = {}
        return timings, self._fleet.left_out

    def send_weights(self, index: int, url: str) -> int:
        """Send the weights to one engine that comes late; returns their version: the steps that they have seen."""
        from slimrl.megatron.tensor_files import use_up

        weights = self._trainer.export_weights()
        with self._followers.join("give_weights"):
            try:
                self._fleet.send_to(index, url, weights, self._num_steps)
            finally:
                use_up(weights)
        return self._num_steps

    def save(self, folder: Path) -> None:
        """Write model, optimizer and random states."""
        with self._followers.join("save", folder):
            self._trainer.save(folder)

    def save_hf(self, folder: Path) -> None:
        """Write the weights as transformers loads them."""
        with self._followers.join("save_hf", folder):
            self._trainer.save_hf(folder)

    def begin_save(self, new: NewCheckpoint, export: Path | None) -> None:
        """Copy model, optimizer and random states; write the checkpoint, and what --save-hf asks for, meanwhile."""
        with_export = export is not None
        with self._followers.join("begin_save", new.scratch, with_export):
            snapshot = self._trainer.snapshot(with_export=with_export)
        self._background.start(lambda: write_snapshot(snapshot, new, export))

    def is_saved(self) -> bool:
        """Whether nothing is being written; raises what went wrong with it."""
        return self._background.is_done()

    def finish_save(self) -> None:
        """Wait until nothing is being written; raises what went wrong with it."""
        self._background.finish()


class FollowerActor:
    """One of them."""

    def __init__(self, settings: TrainerSettings, plugins: PluginPass, run: Path, rank: int) -> None:
        _see(RunDir(run).logs, settings.ckpt.hf_checkpoint, settings.ckpt.ref_load)
        log_to(RunDir(run).logs / f"trainer-{rank}.log")
        self._plugins = resolve_all(plugins.references, plugins.options, expected_fingerprint=plugins.fingerprint)
        self._settings = settings
        self._rank = rank
        self._background = Background("save")

    def is_there(self) -> None:
        """Answer once the process has started."""

    def follow(self, method: str, *arguments: Any) -> None:
        """Do what the first process does.

        A failure of this process alone ends it: the first one, which waits for it, then fails too.
        """
        try:
            getattr(self, method)(*arguments)
        except Exception as error:
            if isinstance(error, SlimrlError) and self._settings.num_machines == 1:
                raise  # of every process: they see the same files
            logging.getLogger(__name__).exception("%s failed", method)
            os._exit(1)

    def connect(self, meeting: Meeting, checkpoint: Path | None) -> None:
        """Meet the others, build the model and load its weights."""
        self._trainer = build_trainer(self._settings, self._plugins, None, rank=self._rank, meeting=meeting)
        self._trainer.load(checkpoint)

    def train(self, batch: TrainBatch) -> None:
        """All optimizer steps of one rollout."""
        self._trainer.train(batch)

    def give_weights(self) -> None:
        """Give the first process this one's part of the weights."""
        self._trainer.give_weights()

    def save(self, folder: Path) -> None:
        """Give the first process this one's part of weights and optimizer state."""
        self._trainer.save(folder)

    def save_hf(self, folder: Path) -> None:
        """Give the first process this one's part of the weights or adapters."""
        self._trainer.save_hf(folder)

    def begin_save(self, folder: Path, with_export: bool) -> None:
        """Copy this process's part, or give it to the first; write what is this process's beside what follows."""
        self._background.finish()
        snapshot = self._trainer.snapshot(with_export=with_export)
        self._background.start(lambda: snapshot.write(folder))


def _see(*paths: Path | None) -> None:
    """Raise UsageError naming a path that is not there on this machine."""
    for path in paths:
        if path is not None and not path.exists():
            raise UsageError(
                f"{path} is not there on machine {socket.gethostname()}; with --actor-num-nodes above 1 all machines "
                "need to see the folders of the run and of its models: put them on a file system that they share"
            )


def write_snapshot(snapshot: Snapshot, new: NewCheckpoint, export: Path | None) -> None:
    """Fill a checkpoint and make it the newest one, then --save-hf's folder; raises CheckpointError when it cannot."""
    try:
        try:
            snapshot.write(new.scratch)
            new.complete()
        except BaseException:
            new.abandon()
            raise
        if export is not None:
            with new_folder(export) as scratch:
                snapshot.write_hf(scratch)
    except OSError as error:
        raise not_written(new.step, error) from error


def build_trainer(
    s: TrainerSettings,
    plugins: PluginSet,
    transport: WeightTransport | None,
    *,
    rank: int = 0,
    meeting: Meeting | None = None,
) -> MegatronTrainer:
    """The trainer of one process; those of several meet somewhere."""
    from slimrl.megatron.functions import TrainFunctions
    from slimrl.megatron.trainer import MegatronTrainer

    return MegatronTrainer(
        s.ckpt,
        s.model,
        s.rollout_temperature,
        s.grpo,
        s.optimizer,
        s.perf,
        trained=s.trained,
        num_steps_per_rollout=s.num_steps_per_rollout,
        global_batch_size=s.global_batch_size,
        total_steps=s.total_steps,
        max_response_len=s.max_response_len,
        max_staleness=s.max_staleness,
        advantage=plugins.advantage,
        functions=TrainFunctions.of(plugins),
        transport=transport,
        device=s.device,
        dtype=s.dtype,
        num_threads=s.num_threads,
        seed=s.seed,
        deterministic=s.deterministic,
        layout=s.layout,
        recompute=recompute_of(s.perf),
        rank=rank,
        meeting=meeting,
    )
