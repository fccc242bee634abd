"""A folder of Megatron's distributed checkpoints as far as it can be told without loading a tensor."""

from __future__ import annotations

from pathlib import Path

METADATA = ".metadata"
"""The index of a checkpoint's tensors."""
TRACKER, RELEASE = "latest_checkpointed_iteration.txt", "release"


def tensors_folder(folder: Path, step: int | None = None) -> Path | None:
    """Where the tensors are: in what the tracker file names, in that of a step, or in the folder itself; or nowhere."""
    tracker = folder / TRACKER
    if step is not None:
        folder = folder / f"iter_{step:07d}"
    elif tracker.is_file():
        said = tracker.read_text().strip()
        folder = folder / (RELEASE if said == RELEASE else f"iter_{int(said):07d}" if said.isdigit() else said)
    return folder if (folder / METADATA).is_file() else None
