"""The folder of checkpoints: written under a temporary name, renamed when whole, newest found by its file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimrl.errors import CheckpointError
from slimrl.observe.run_dir import write_atomically

LATEST = "latest_checkpointed_iteration.txt"
COMPLETE = "complete"
_NAME = re.compile(r"iter_(\d{7})")


@contextmanager
def new_checkpoint(folder: Path, step: int) -> Iterator[Path]:
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
    (scratch / COMPLETE).touch()
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
