"""Prompt files of reasoning-gym's tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rl_reward_reasoning_gym.library import create_task, plain
from slimrl import UsageError

IN_TAGS = "Give the final answer between <answer> and </answer>."


def rows(
    name: str, size: int, seed: int, settings: Mapping[str, Any], instruction: str = IN_TAGS
) -> Iterator[dict[str, Any]]:
    """The first `size` problems of a task under a seed, as rows of a prompt file; the same ones every time."""
    task = create_task(name, {**settings, "seed": seed, "size": size})
    for index in range(size):
        entry = plain(task[index], name, task)
        yield {
            "input": f"{entry['question']}\n{instruction}" if instruction else entry["question"],
            "label": entry["answer"],
            "metadata": {"reasoning_gym": {"task": name, "settings": dict(settings), "entry": entry}},
        }


def write(path: Path, name: str, size: int, seed: int, settings: Mapping[str, Any], instruction: str = IN_TAGS) -> None:
    """Write a prompt file, or nothing if the task cannot be written; UsageError."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(name, size, seed, settings, instruction)]
    if not lines:
        raise UsageError(f"a prompt file needs at least one problem, --size is {size}")
    path.write_text("".join(lines), encoding="utf-8")
