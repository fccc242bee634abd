"""The folder of checkpoints: written under a temporary name, renamed when whole, newest found by its file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slimrl.errors import CheckpointError
from slimrl.observe.run_dir import write_atomically

LATEST = "latest_checkpointed_iteration.txt"
COMPLETE = "complete.json"
"""Written last: a folder that holds it is whole; says which step and which run folder it belongs to."""
_NAME = re.compile(r"iter_(\d{7})")


@dataclass(frozen=True)
class Start:
    """Where a run begins: the steps its weights have seen, and what they are loaded from."""

    step: int = 0
    checkpoint: Path | None = None
    run: Path | None = None
    """The run folder that the checkpoint belongs to."""


@contextmanager
def new_checkpoint(folder: Path, step: int, run: Path) -> Iterator[Path]:
    """An empty folder to fill; on leaving it becomes `iter_STEP` and the newest checkpoint, or vanishes on error."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"iter_{step:07d}"
    scratch = folder / f".{final.name}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    (scratch / COMPLETE).write_text(json.dumps({"step": step, "run": str(run.resolve())}))
    if final.exists():  # saved before at the same step: replace it
        stale = folder / f".{final.name}.old"
        shutil.rmtree(stale, ignore_errors=True)
        final.rename(stale)
        scratch.rename(final)
        shutil.rmtree(stale)
    else:
        scratch.rename(final)
    write_atomically(folder / LATEST, f"{step}\n")


def latest_checkpoint(folder: Path | None) -> Path | None:
    """The newest complete checkpoint in a folder; the folder itself may be a checkpoint; None where there is none.

    Raises CheckpointError when the folder says that there is one and it is gone.
    """
    if folder is None or not folder.is_dir():
        return None
    if (folder / COMPLETE).exists():
        return folder
    found = {int(m[1]): p for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)) and (p / COMPLETE).exists()}
    if found:
        return found[max(found)]
    if (folder / LATEST).exists():
        step = (folder / LATEST).read_text().strip()
        raise CheckpointError(
            f"{folder}: {LATEST} says step {step}, but no complete checkpoint is there; "
            "restore it or remove the file to start anew"
        )
    return None


def find_start(folder: Path | None) -> Start:
    """Go on from the newest checkpoint of a folder, or start anew where it holds none.

    Raises CheckpointError as `latest_checkpoint` does, or when the checkpoint cannot be read.
    """
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return Start()
    try:
        said = json.loads((checkpoint / COMPLETE).read_text())
        run = Path(said["run"])
        return Start(int(said["step"]), checkpoint, run if run.is_dir() else None)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint / COMPLETE} is damaged ({error}); remove {checkpoint} to use the one before it"
        ) from error
