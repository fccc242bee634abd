"""When a run's checkpoints are written, and how: while it waits, or beside its next steps."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from slimrl.checkpoints import NewCheckpoint, new_checkpoint, new_folder, not_written
from slimrl.config import CkptConfig
from slimrl.config.checkpoints import save_hf_folder
from slimrl.observe.run_dir import RunDir

logger = logging.getLogger(__name__)


class Savers(Protocol):
    """Those who have a part of a checkpoint: the crew."""

    def save(self, folder: Path) -> None:
        """Write everything that a resumed run needs."""

    def save_hf(self, folder: Path) -> None:
        """Write the weights as transformers loads them."""

    def begin_save(self, new: NewCheckpoint, export: Path | None) -> None:
        """Copy everything, then write the checkpoint and --save-hf's folder in the background."""

    def is_saved(self) -> bool:
        """Whether nothing is being written; raises what went wrong with it."""

    def finish_save(self) -> None:
        """Wait until nothing is being written; raises what went wrong with it."""


@dataclass(frozen=True)
class Pending:
    """What is being written."""

    step: int
    export: Path | None


class Saving:
    """A run's checkpoints and exports; leaving it waits for what is still being written."""

    def __init__(self, crew: Savers, ckpt: CkptConfig, folder: Path, run: RunDir) -> None:
        self._crew = crew
        self._ckpt = ckpt
        self._folder = folder
        self._run = run
        self._pending: Pending | None = None

    def save(self, step: int) -> None:
        """Write a checkpoint of everything that a resumed run needs, and --save-hf.

        With --async-save all of it is copied, and written while the run goes on.
        """
        export = None if self._ckpt.save_hf is None else save_hf_folder(self._ckpt.save_hf, step)
        if self._ckpt.async_save:
            self.finish()
        try:
            if self._ckpt.async_save:
                self._begin(step, export)
            else:
                self._save(step, export)
        except OSError as error:
            raise not_written(step, error) from error

    def _save(self, step: int, export: Path | None) -> None:
        keep, resumable = self._ckpt.max_checkpoints_to_keep, not self._ckpt.no_save_optim
        with new_checkpoint(self._folder, step, self._run.path, keep=keep, resumable=resumable) as scratch:
            self._crew.save(scratch)
            self._copy_lock(scratch)
        self._tell_checkpoint(step)
        if export is not None:
            with new_folder(export) as scratch:
                self._crew.save_hf(scratch)
            self._tell_export(step, export)

    def look(self) -> None:
        """Tell of what has been written since; raises what went wrong with it."""
        if self._pending is None:
            return
        try:
            is_saved = self._crew.is_saved()
        except BaseException:
            self._pending = None  # lost: nothing is told of it
            raise
        if is_saved:
            self._tell(self._pending)

    def finish(self) -> None:
        """Wait for what is being written; raises what went wrong with it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._crew.finish_save()
            self._tell(pending)

    def __enter__(self) -> Saving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, Exception):  # Ctrl-C a second time does not wait
            try:
                self.finish()
            except Exception:  # the first error is the one to mend
                logger.exception("the checkpoint that was being written is lost")

    def _begin(self, step: int, export: Path | None) -> None:
        keep, resumable = self._ckpt.max_checkpoints_to_keep, not self._ckpt.no_save_optim
        new = NewCheckpoint(self._folder, step, self._run.path, keep, resumable)
        new.begin()
        try:
            self._copy_lock(new.scratch)
            self._crew.begin_save(new, export)
        except BaseException:
            new.abandon()
            raise
        self._pending = Pending(step, export)

    def _copy_lock(self, scratch: Path) -> None:
        shutil.copyfile(self._run.plugins_lock, scratch / self._run.plugins_lock.name)

    def _tell(self, written: Pending) -> None:
        self._pending = None
        self._tell_checkpoint(written.step)
        if written.export is not None:
            self._tell_export(written.step, written.export)

    def _tell_checkpoint(self, step: int) -> None:
        self._run.event("checkpoint", step=step, folder=self._folder)

    def _tell_export(self, step: int, export: Path) -> None:
        self._run.event("hf_checkpoint", step=step, folder=export)
