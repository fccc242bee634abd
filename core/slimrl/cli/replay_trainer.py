"""The trainer that a replay computes loss and gradient with, and the weights of the run that it begins from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimrl.checkpoints import COMPLETE, resumable_step
from slimrl.cli.replay_job import Job
from slimrl.config.batch import solve_batch
from slimrl.observe.run_dir import RunDir

if TYPE_CHECKING:
    from slimrl.megatron.trainer import MegatronTrainer
    from slimrl.replay import ReplayedTraining, Tolerance


def training_of(job: Job) -> tuple[ReplayedTraining | None, str]:
    """The trainer, or why there is none."""
    from slimrl.replay import ReplayedTraining

    folder = job.config.ckpt.hf_checkpoint
    if folder is None or not folder.is_dir():
        return None, f"--hf-checkpoint {folder} of the run is not there; replay where the run was started"
    make, catch_up = _make_trainer(job), job.flags.catch_up
    return ReplayedTraining(make, _starts(job), job.batch_at, catch_up=catch_up), ""


def tolerance_of(job: Job) -> Tolerance:
    """How far numbers of the same steps may lie apart."""
    from slimrl.replay import OTHER_KIND, SAME_KIND

    device, dtype = _place(job)
    return OTHER_KIND if device == "cuda" or dtype == "bfloat16" else SAME_KIND


class _NoEngines:
    """A transport to nobody."""

    def publish(self, weights: object, version: int) -> None:
        del weights, version


def _make_trainer(job: Job) -> Any:  # a function without arguments, made where Megatron may be imported
    def make() -> MegatronTrainer:
        from slimrl.megatron.functions import TrainFunctions
        from slimrl.megatron.trainer import MegatronTrainer

        c = job.config
        sizes = solve_batch(c.rollout)
        # what --num-epoch came to is in the event
        num_rollout = c.rollout.num_rollout or _last_start(job).get("num_rollout") or len(job.steps)
        return MegatronTrainer(
            c.ckpt,
            c.model,
            c.rollout.rollout_temperature,
            c.grpo,
            c.optimizer,
            c.perf,
            trained=c.trained,
            num_steps_per_rollout=sizes.num_steps_per_rollout,
            global_batch_size=sizes.global_batch_size,
            total_steps=num_rollout * sizes.num_steps_per_rollout,
            max_response_len=c.rollout.rollout_max_response_len,
            advantage=job.plugins.advantage,
            functions=TrainFunctions.of(job.plugins),
            transport=_NoEngines(),
            device="cpu",
            dtype=_place(job)[1],
            num_threads=job.flags.num_threads or c.cluster.num_threads,
            seed=c.cluster.seed,
            deterministic=c.cluster.deterministic,
        )

    return make


def _place(job: Job) -> tuple[str, Literal["float32", "bfloat16"]]:
    """Where the run trained, and the number format to replay in: a GPU's steps are replayed in float32."""
    last = _last_start(job)
    device = last.get("device") or job.config.cluster.device
    dtype = last.get("dtype") or job.config.cluster.dtype
    return device, "bfloat16" if device != "cuda" and dtype == "bfloat16" else "float32"


def _starts(job: Job) -> dict[int, Path | None]:
    """The weights that are there, by the steps that they have seen; None are those that the run began with."""
    starts: dict[int, Path | None] = {}
    for event in _events(job.run, "start"):
        checkpoint = event.get("checkpoint")
        if checkpoint is None:
            starts[int(event["step"])] = Path(event["weights"]) if event.get("weights") else None
        elif (Path(checkpoint) / COMPLETE).is_file():
            starts[int(event["step"])] = Path(checkpoint)
    saved = [Path(event["folder"]) / f"iter_{event['step']:07d}" for event in _events(job.run, "checkpoint")]
    for folder in [*saved, *job.run.checkpoints.glob("iter_*")]:  # the run may have been moved
        if (step := resumable_step(folder)) is not None:
            starts[step] = folder
    return starts


def _last_start(job: Job) -> dict[str, Any]:
    started = _events(job.run, "start")
    return started[-1] if started else {}


def _events(run: RunDir, name: str) -> list[dict[str, Any]]:
    return [event for event in run.read_events() if event.get("event") == name]
