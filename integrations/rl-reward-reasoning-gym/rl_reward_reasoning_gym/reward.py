"""Reward `reasoning_gym`: what the task that a prompt came from says of the reply's answer, 0 to 1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rl_reward_reasoning_gym.answer import Place, find_answer
from rl_reward_reasoning_gym.library import Task, create_task
from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, reward_traits

MAX_TASKS = 256


@dataclass(frozen=True)
class ReasoningGymOptions:
    """The reward `reasoning_gym`: where in a reply the answer is looked for."""

    reasoning_gym_answer: Place = "tags"
    """tags: in the last <answer> ... </answer>; last_line: the last line that is not blank; last_number: the last number."""  # noqa: E501


def make(options: PluginOptions) -> Reward:
    """The reward; a task is made when the first sample of it comes."""
    place = options[ReasoningGymOptions].reasoning_gym_answer

    @lru_cache(maxsize=MAX_TASKS)
    def task_of(name: str, settings: str) -> Task:
        return create_task(name, {"seed": 0, "size": 1, **json.loads(settings)})

    @reward_traits(pure=True)
    def score(sample: Sample) -> float:
        origin = origin_of(sample)
        task = task_of(origin["task"], json.dumps(origin.get("settings", {}), sort_keys=True))
        answer = find_answer(sample.response, place)
        if answer is None:
            return 0.0
        value = float(task.score_answer(answer, origin["entry"]))
        if not math.isfinite(value):
            raise RewardError(f"reasoning-gym's task {origin['task']!r} scored {value}")
        return value

    return score


def origin_of(sample: Sample) -> dict[str, Any]:
    """What the prompt file says of the task; RewardError for a row that is not of reasoning-gym."""
    origin = sample.metadata.get("reasoning_gym")
    if not isinstance(origin, dict) or not isinstance(origin.get("task"), str) or "entry" not in origin:
        raise RewardError(
            "the row has no metadata.reasoning_gym with task and entry; "
            "write the prompt file with `python -m rl_reward_reasoning_gym`"
        )
    return origin


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `reasoning_gym`."""
    return {"reasoning_gym": make}


@hookimpl
def slimrl_options() -> Sequence[type]:
    """The flag of `reasoning_gym`."""
    return [ReasoningGymOptions]
