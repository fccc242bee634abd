"""Folders that one run at a time writes into."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slimrl.errors import UsageError

WAY_OUT = "name another folder with --run-dir or --save"


@contextmanager
def claimed(folders: Iterable[Path]) -> Iterator[None]:
    """Keep other runs from writing into folders, which are made, as long as the block lasts, even until a kill.

    Raises UsageError when a folder cannot be written to, or another run has it; without locks all pass.
    """
    with ExitStack() as held:
        for folder in dict.fromkeys(folder.resolve() for folder in folders):
            held.callback(os.close, _claim(folder))
        yield


def _claim(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; {WAY_OUT}") from error
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise UsageError(f"{folder}: another run is writing there; wait for its end, or {WAY_OUT}") from None
    except OSError:  # no locks there
        pass
    return opened
