"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ObserveConfig:
    """The run folder, trackers and progress."""

    run_dir: Path | None = None
    """Folder of this run. Default: the resumed run's own folder, else runs/DATE-TIME."""
    tracker: tuple[str, ...] = field(default=(), metadata={"repeats": True})
    """Trackers that every step's metrics also go to: a name, pkg.mod:attr or file.py:attr."""
    use_tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    progress: bool = True
    """Show a live display on a terminal, or one line a step elsewhere."""
