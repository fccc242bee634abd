"""Where a run begins and the folder that it writes to, settled before any process is started."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from slimrl.checkpoints import Start, check_whole, find_start, latest_checkpoint
from slimrl.config import Config
from slimrl.config.plan import has_cuda_device
from slimrl.errors import CheckpointError, ConfigError, UsageError
from slimrl.observe.run_dir import RunDir


def find_run_start(config: Config) -> Start:
    """Where the run begins; raises CheckpointError when a folder that it would read is damaged."""
    ckpt = config.ckpt
    for flag, folder in (("--ref-load", ckpt.ref_load), ("--critic-load", ckpt.critic_load)):
        if folder is not None:
            check_whole(folder, flag)
    start = find_start(ckpt.load, ckpt.ckpt_step)
    if start.weights is not None and config.trained.lora_rank is not None:
        raise CheckpointError(
            f"--load {ckpt.load} holds weights and no adapters to go on with; train adapters on them with "
            f"--ref-load {start.weights} and no --load"
        )
    return start


def check_gpu(config: Config, device: str) -> None:
    """Raise ConfigError where the run would wait for a GPU that this machine does not have."""
    if device == "cuda" and config.cluster.ray_address is None and not has_cuda_device():
        raise ConfigError(
            "--device cuda: this machine shows no NVIDIA device; set --device cpu, or name a Ray cluster that has one "
            "with --ray-address"
        )


def find_run_folder(config: Config, start: Start) -> RunDir:
    """A new folder, or that of the run which is resumed; raises UsageError where another run would be lost."""
    default = Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    run = RunDir((config.observe.run_dir or start.run or default).resolve())
    if config.ckpt.load is None and run.metrics.exists():
        raise UsageError(
            f"--run-dir {run.path}: a run is there already; give --load {run.checkpoints} to go on with it, "
            "or another folder"
        )
    if start.checkpoint is None and (said := _worth_keeping(run)) is not None:
        raise UsageError(
            f"--run-dir {run.path}: {said}; --load {config.ckpt.load} holds no checkpoint of it, and to begin anew "
            "would delete its metrics and samples; give another folder"
        )
    return run


def _worth_keeping(run: RunDir) -> str | None:
    """What a folder holds that a run which begins anew would not make again by itself."""
    events = run.read_events()
    for event in reversed(events):
        if event.get("event") == "checkpoint" and latest_checkpoint(Path(event["folder"])) is not None:
            return f"the run there has checkpoints and goes on with --load {event['folder']}"
    return "a finished run is there" if any(event.get("event") == "end" for event in events) else None
