"""The way from the trainer's first process to its others, which do the same at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slimrl.errors import SlimrlError, TrainError


class Followers:
    """The first process's way to the others; there may be none."""

    def __init__(self, actors: Sequence[Any], logs: Path) -> None:  # handles of Ray actors, which have no types
        self._actors = actors
        self._logs = logs

    def __len__(self) -> int:
        return len(self._actors)

    def await_all(self) -> None:
        """Wait until all are there; raises TrainError with what keeps one of them from it."""
        import ray

        try:
            ray.get([actor.is_there.remote() for actor in self._actors])
        except ray.exceptions.RayActorError as error:
            raise TrainError(f"a process of the trainer did not start: {error}") from error

    @contextlib.contextmanager
    def join(self, method: str, *arguments: Any) -> Iterator[None]:
        """Let the others do something while the first process does the same in the `with` block."""
        if not self._actors:
            yield
            return
        import ray

        shared = [ray.put(argument) for argument in arguments]
        answers = [actor.follow.remote(method, *shared) for actor in self._actors]
        try:
            yield
            ray.get(answers)
        except (SlimrlError, AssertionError):
            raise
        except (RuntimeError, ray.exceptions.RayActorError) as error:
            raise TrainError(
                f"the trainer's processes did not go on together ({method}): {error}; their logs are "
                f"{self._logs}/trainer*.log"
            ) from error
