"""The reasoning-gym library, imported when it is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

from slimrl import UsageError

Entry = Mapping[str, Any]
"""One problem of a task: question, answer, and metadata that its scorer reads."""

ScoreAnswer = Callable[[str | None, Entry], float]


class Task(Protocol):
    """What is used of a reasoning-gym dataset."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float: ...


def create_task(name: str, settings: Mapping[str, Any]) -> Task:
    """A task by its name and settings; UsageError if the library, the task or a setting does not exist."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UsageError(f"reasoning-gym cannot be imported ({error}): pip install 'slimrl[reasoning-gym]'") from error
    if name not in DATASETS:
        close = get_close_matches(name, DATASETS, 3) or sorted(DATASETS)
        raise UsageError(f"reasoning-gym has no task {name!r}; it has {', '.join(close)}")
    try:
        task: Task = reasoning_gym.create_dataset(name, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        raise UsageError(f"reasoning-gym refuses the settings {dict(settings)} of {name!r}: {error}") from error
    return task


def plain(entry: dict[str, Any], name: str, task: Task) -> dict[str, Any]:
    """An entry as JSON holds it; UsageError where JSON would change what the task's scorer says of its own answer."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(entry))
        answer = entry["answer"]
        same = answer is None or task.score_answer(answer, entry) == task.score_answer(answer, copy)
    except Exception as error:  # whatever a task keeps in its metadata, and whatever its scorer makes of it
        raise UsageError(
            f"entries of the task {name!r} do not survive JSON: {type(error).__name__}: {error}"
        ) from error
    if not same:
        raise UsageError(f"entries of the task {name!r} do not survive JSON: their own answers score differently")
    return copy
