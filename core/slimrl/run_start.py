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
    if ckpt.load is not None and start == Start():
        start = _without_checkpoints(ckpt.load)
    if start.weights is not None and config.trained.lora_rank is not None:
        raise CheckpointError(
            f"--load {ckpt.load} holds weights and no adapters to go on with; train adapters on them with "
            f"--ref-load {start.weights} and no --load"
        )
    return start


def _without_checkpoints(load: Path) -> Start:
    """The weights of a Hugging Face folder, or nothing; raises CheckpointError where something else is meant."""
    if latest_checkpoint(load / "checkpoints") is not None:
        raise CheckpointError(
            f"--load {load} is a run folder; go on with its checkpoints: --load {load / 'checkpoints'}"
        )
    if (load / "adapter_config.json").is_file():
        raise CheckpointError(
            f"--load {load} is an adapter of PEFT and no checkpoint to go on with; name the folder of the run's "
            "checkpoints, or merge it into its model with merge_and_unload and begin with that"
        )
    is_model = (load / "config.json").is_file() and any(load.glob("*.safetensors"))
    return Start(weights=load) if is_model else Start()


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
    saved = _saved_in(run)
    if config.ckpt.load is None and run.metrics.exists():
        raise UsageError(
            f"--run-dir {run.path}: a run is there already; give "
            + ("another folder" if saved is None else f"--load {saved} to go on with it, or another folder")
        )
    is_over = any(event.get("event") == "end" for event in run.read_events())
    if start.checkpoint is None and (saved is not None or is_over):
        there = "a finished run is" if saved is None else f"a run that goes on with --load {saved} is"
        raise UsageError(
            f"--run-dir {run.path}: {there} there; --load {config.ckpt.load} holds no checkpoint of it, and to begin "
            "anew would delete its metrics and samples; give another folder"
        )
    return run


def _saved_in(run: RunDir) -> Path | None:
    """Where the checkpoints of a run are; None where it has none."""
    told = [Path(event["folder"]) for event in run.read_events() if event.get("event") == "checkpoint"]
    return next((folder for folder in reversed(told) if latest_checkpoint(folder) is not None), None)
