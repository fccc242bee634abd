"""The folder of checkpoints: written under a temporary name, renamed when whole, checked by checksum when read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimrl.config.megatron_folder import tensors_folder
from slimrl.errors import CheckpointError
from slimrl.observe.run_dir import write_atomically

LATEST = "latest_checkpointed_iteration.txt"
COMPLETE = "complete.json"
"""Written last: step, run folder, time, and the SHA-256 of every other file; a folder without it is not whole."""
# what a killed save leaves behind may be whole but for its name
_NAME = re.compile(r"iter_(\d{7})|\.iter_(\d{7})\.(?:tmp|old)")


@dataclass(frozen=True)
class Start:
    """Where a run begins: the steps its weights have seen, and what they are loaded from."""

    step: int = 0
    checkpoint: Path | None = None
    run: Path | None = None
    """The run folder that the checkpoint belongs to."""
    passed_over: tuple[str, ...] = ()
    """Why each newer checkpoint was not used."""
    weights: Path | None = None
    """Without a checkpoint of ours: a folder of Megatron's or of Hugging Face, whose weights alone are taken."""


@dataclass(frozen=True)
class NewCheckpoint:
    """A checkpoint to be: begun, filled by whoever has a part of it, then completed or abandoned."""

    folder: Path
    step: int
    run: Path
    keep: int | None = None
    """How many of the last written ones are left once this one is whole; None: all."""
    resumable: bool = True

    @property
    def final(self) -> Path:
        """Where it is when it is whole."""
        return self.folder / f"iter_{self.step:07d}"

    @property
    def scratch(self) -> Path:
        """Where it is filled."""
        return _beside(self.final, "tmp")

    def begin(self) -> None:
        """Make the folder to fill, and remove what a killed save left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _tidy(self.folder)
        self.scratch.mkdir()

    def complete(self) -> None:
        """Bring its files to the disk and make it the newest checkpoint; then older ones are deleted."""
        _flush(self.scratch)
        written = {"step": self.step, "run": str(self.run.resolve()), "time_ns": _later_than_all(self.folder)}
        said = {**written, "resumable": self.resumable, "sha256": _checksums(self.scratch)}
        write_atomically(self.scratch / COMPLETE, json.dumps(said, indent=1))
        _to_disk(self.scratch / COMPLETE)
        _to_disk(self.scratch)
        _take_place(self.scratch, self.final)  # saved before at the same step: replace it
        write_atomically(self.folder / LATEST, f"{self.step}\n")
        _to_disk(self.folder)
        for found in _by_age(self.folder):
            if found.name.startswith("."):
                _remove(found)
        for found in _by_age(self.folder)[self.keep :] if self.keep else ():
            _remove(found)

    def abandon(self) -> None:
        """Remove what was written of it."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def not_written(step: int, error: OSError) -> CheckpointError:
    """What a full disk or the like comes to."""
    return CheckpointError(
        f"the checkpoint of step {step} could not be written: {error}; make room, or name another folder with "
        "--save, and go on from the one before"
    )


@contextmanager
def new_checkpoint(
    folder: Path, step: int, run: Path, *, keep: int | None = None, resumable: bool = True
) -> Iterator[Path]:
    """An empty folder to fill; on leaving it becomes `iter_STEP` and the newest checkpoint, or vanishes on error."""
    new = NewCheckpoint(folder, step, run, keep, resumable)
    new.begin()
    with _vanishes_on_error(new.scratch):
        yield new.scratch
    new.complete()


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """An empty folder to fill; on leaving it takes the place of `final`, or vanishes on error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch, stale = _beside(final, "tmp"), _beside(final, "old")
    if stale.exists() and not final.exists():  # killed between two renames
        stale.rename(final)
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)
    scratch.mkdir()
    with _vanishes_on_error(scratch):
        yield scratch
    _take_place(scratch, final)
    shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def _vanishes_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _beside(final: Path, what: str) -> Path:
    return final.with_name(f".{final.name}.{what}")


def _take_place(scratch: Path, final: Path) -> None:
    """Rename; what was there keeps a name that is found if this is cut off in between."""
    if final.exists():
        final.rename(_beside(final, "old"))
    scratch.rename(final)


def latest_checkpoint(folder: Path | None) -> Path | None:
    """The checkpoint written last in a folder; the folder itself may be a checkpoint; None where there is none.

    Raises CheckpointError when the folder says that there is one and it is gone.
    """
    found = _candidates(folder)
    return found[0] if found else None


def find_start(folder: Path | None, step: int | None = None, *, resume: bool = True) -> Start:
    """Go on from the newest undamaged checkpoint of a folder, or start anew where it holds none.

    Where it holds one of Megatron, start with its weights. With `step` from that one only. Raises CheckpointError as
    `latest_checkpoint` does, when no checkpoint is undamaged, and with `resume` when the one found was saved without
    its optimizer.
    """
    found = _candidates(folder)
    if folder is not None and not found and (weights := tensors_folder(folder, step)) is not None:
        return Start(weights=weights)
    if step is not None:
        found = [checkpoint for checkpoint in found if _step_of(checkpoint) == step][:1]
        if not found:
            there = ", ".join(str(n) for n in sorted(_step_of(c) for c in _candidates(folder))) or "none"
            raise CheckpointError(f"--ckpt-step {step}: {folder} holds no checkpoint of that step; there: {there}")
    passed_over: list[str] = []
    for checkpoint in found:
        damage = find_damage(checkpoint)
        try:
            if damage is None:
                return _start_from(checkpoint, tuple(passed_over), resume=resume)
            (checkpoint / COMPLETE).stat()
        except FileNotFoundError:  # a run that keeps some alone deleted it meanwhile: there is a newer one
            return find_start(folder, step, resume=resume)
        passed_over.append(f"checkpoint {checkpoint} is damaged: {damage}")
    if passed_over:
        raise CheckpointError(
            f"{'; '.join(passed_over)}; "
            + ("restore it, or name another step" if step is not None else "restore it, or remove it to start anew")
        )
    return Start()


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None when every checksum fits."""
    try:
        expected = _read(checkpoint)["sha256"]
        int(_read(checkpoint)["step"]), str(_read(checkpoint)["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{COMPLETE} cannot be read ({error!r})"
    try:
        found = _checksums(checkpoint)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    if missing := sorted(expected.keys() - found.keys()):
        return f"it lacks {', '.join(missing)}"
    changed = sorted(name for name, checksum in expected.items() if found[name] != checksum)
    return f"{', '.join(changed)} changed since it was written" if changed else None


def resumable_step(checkpoint: Path) -> int | None:
    """The step of a checkpoint that a run can go on from, if the folder is one; its files are not looked at."""
    try:
        said = _read(checkpoint)
        return int(said["step"]) if said["resumable"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_whole(folder: Path, flag: str) -> None:
    """Raise CheckpointError when the folder that a flag names is a damaged checkpoint of ours, or holds several."""
    if (folder / COMPLETE).exists():
        damage = find_damage(folder)
        if damage is not None:
            raise CheckpointError(f"{flag} {folder} is damaged: {damage}; restore it, or name another")
    elif folder.is_dir() and (newest := next(iter(_by_age(folder)), None)) is not None:
        raise CheckpointError(f"{flag} {folder} is a folder of checkpoints; name one of them: {flag} {newest}")


def _start_from(checkpoint: Path, passed_over: tuple[str, ...], *, resume: bool) -> Start:
    said = _read(checkpoint)
    if resume and not said["resumable"]:
        raise CheckpointError(
            f"checkpoint {checkpoint} was saved with --no-save-optim and cannot be resumed; start from its weights "
            f"with --ref-load {checkpoint} and no --load, or name a step that can be with --ckpt-step"
        )
    run = Path(said["run"])
    return Start(int(said["step"]), checkpoint, run if run.is_dir() else None, passed_over)


def _candidates(folder: Path | None) -> list[Path]:
    """The checkpoints of a folder, damaged or not, the one written last first."""
    if folder is None or not folder.is_dir():
        return []
    if (folder / COMPLETE).exists():
        return [folder]
    found = _by_age(folder)
    if not found and (folder / LATEST).exists() and tensors_folder(folder) is None:
        step = (folder / LATEST).read_text().strip()
        raise CheckpointError(
            f"{folder}: {LATEST} says step {step}, but no complete checkpoint is there; "
            "restore it or remove the file to start anew"
        )
    return found


def _by_age(folder: Path) -> list[Path]:
    """The one written last first: after --ckpt-step that is not the one of the highest step."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and (path / COMPLETE).exists()]
    return sorted(found, key=lambda path: (_time_of(path), _step_of(path)), reverse=True)


def _step_of(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:  # named by the user, who may have renamed it
        return int(_read(checkpoint).get("step", -1))
    return int(match[1] or match[2])


def _later_than_all(folder: Path) -> int:
    """The time, or later: the clock may have gone back, or another machine's, that saved before, be ahead."""
    return max([time.time_ns(), *(_time_of(found) + 1 for found in _by_age(folder))])


def _time_of(checkpoint: Path) -> int:
    try:
        return int(_read(checkpoint)["time_ns"])
    except FileNotFoundError:  # a run that keeps some alone deleted it meanwhile
        return 0
    except (OSError, ValueError, KeyError, TypeError):  # damaged: then the file's own time
        return (checkpoint / COMPLETE).stat().st_mtime_ns


def _read(checkpoint: Path) -> Mapping[str, Any]:  # Any: JSON
    said: Mapping[str, Any] = json.loads((checkpoint / COMPLETE).read_text())
    return said


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its name in the folder."""
    files = _files(folder)
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing lets other threads run
        return dict(zip((str(path.relative_to(folder)) for path in files), pool.map(_checksum, files), strict=True))


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / COMPLETE)


def _flush(folder: Path) -> None:
    """Bring a folder's files and their names to the disk: an older checkpoint may be deleted for this one."""
    for path in (*_files(folder), *(path for path in folder.rglob("*") if path.is_dir())):
        _to_disk(path)


def _to_disk(path: Path) -> None:
    """Of a folder: the names in it."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it for a folder
            raise
    finally:
        os.close(opened)


def _tidy(folder: Path) -> None:
    """Name what a killed save left whole, and remove the rest of it."""
    for left in _by_age(folder):
        final = folder / f"iter_{_step_of(left):07d}"
        if left.name.startswith(".") and not (final.exists() and _time_of(final) > _time_of(left)):
            shutil.rmtree(final, ignore_errors=True)
            left.rename(final)
    for left in folder.glob(".iter_*"):
        if _NAME.fullmatch(left.name):
            _remove(left)
    for left in folder.glob(f".{LATEST}.*.tmp"):
        left.unlink()


def _remove(checkpoint: Path) -> None:
    if not checkpoint.name.startswith("."):  # what a kill leaves of it is found by its name
        checkpoint = checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old"))
    (checkpoint / COMPLETE).unlink(missing_ok=True)  # from here on it is no checkpoint, whatever happens
    shutil.rmtree(checkpoint)
