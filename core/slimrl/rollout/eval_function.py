"""An evaluation that a function of the user's makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from slimrl.data.buffer import is_finished
from slimrl.protocols import EngineClient, Evaluation
from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.slime_arguments import router_of, set_values
from slimrl.registry.slime_sample import SlimeSample, score_of
from slimrl.rollout.evaluate import EvalSet, eval_metrics
from slimrl.rollout.loop import Produce
from slimrl.rollout.rollout_function import in_thread
from slimrl.rollout.slime_groups import SlimeSupply, group_of
from slimrl.rollout.supply import RunSupply
from slimrl.types import Group


@dataclass(frozen=True)
class OneEvaluation:
    """Implements Evaluation for one step."""

    step: int
    sets: Sequence[EvalSet]
    engine: EngineClient
    _produce_with: Callable[[EvalSet], Produce]

    @property
    def names(self) -> list[str]:
        """The sets of --eval-prompt-data or --eval-config."""
        return [one.name for one in self.sets]

    def groups(self, name: str) -> list[Group]:
        """Every prompt of a set with its pending samples, the same each time."""
        return self._set(name).groups()

    async def produce(self, name: str, group: Group) -> Group:
        """A group of a set with every sample generated as the set says, seen by the sample hooks and scored."""
        return await self._produce_with(self._set(name))(group)

    def _set(self, name: str) -> EvalSet:
        found = next((one for one in self.sets if one.name == name), None)
        if found is None:
            raise ValueError(f"there is no evaluation set {name!r}; there are {', '.join(self.names) or 'none'}")
        return found


class Evaluated(NamedTuple):
    """What an evaluation function returned."""

    metrics: dict[str, float]
    results: dict[str, list[Group]]
    """The samples by set, where there are any."""


async def evaluate_with(
    hook: RunHookFunction, evaluation: OneEvaluation, supply: RunSupply, reward_key: str | None
) -> Evaluated:
    """Metrics and samples of what the function returns; RolloutError names what is wrong with it."""
    if hook.is_slime:
        set_values(hook.args, **router_of(evaluation.engine))
        returned = await in_thread(hook, evaluation.step, SlimeSupply(hook, supply), evaluation=True)
        data = getattr(returned, "data", returned)
        more = getattr(returned, "metrics", None) or {}
    else:
        seen: Evaluation = evaluation
        data, more = await hook.wait(evaluation.step, seen), {}
    if not isinstance(data, Mapping) or not isinstance(more, Mapping):
        raise hook.broke(f"returned {type(data).__name__}; it returns a mapping of evaluation sets by name")
    found = Evaluated({}, {})
    own = {one.name: one for one in evaluation.sets}
    for name, value in {**data, **more}.items():
        if isinstance(value, list) and all(isinstance(group, Group) for group in value):
            groups: list[Group] = value
            found.results[name] = groups
            found.metrics.update(own[name].metrics(groups) if name in own else eval_metrics(name, groups))
        elif isinstance(value, Mapping):
            _read_set(hook, found, str(name), value, reward_key)
        else:
            found.metrics[str(name)] = _number(hook, name, value)
    for group in list(supply.taken.values()):
        if not is_finished(group):  # a prompt of training that was looked at and not answered
            supply.put_back(group)
    return found


def _read_set(
    hook: RunHookFunction, found: Evaluated, name: str, value: Mapping[str, Any], reward_key: str | None
) -> None:
    """slime's {"rewards": [...], "truncated": [...], "samples": [...]}: whatever is there, but one of the first two."""
    rewards, truncated, samples = (value.get(key) for key in ("rewards", "truncated", "samples"))
    if rewards is None and not samples:
        raise hook.broke(f"returned the set {name!r} with neither rewards nor samples")
    if samples and all(isinstance(one, SlimeSample) for one in samples):
        by_group: dict[int, list[SlimeSample]] = {}
        for one in samples:
            by_group.setdefault(one.group_index, []).append(one)
        found.results[name] = [group_of(hook, entries) for entries in by_group.values()]
        found.metrics.update(eval_metrics(name, found.results[name]))
    values = [score_of(one, reward_key).value for one in rewards or () if one is not None]
    numbers = [number for number in values if number is not None]
    if rewards is not None:
        if numbers:
            found.metrics[f"eval/{name}"] = sum(numbers) / len(numbers)
        found.metrics[f"eval/{name}-unscored_ratio"] = 1 - len(numbers) / len(rewards) if rewards else 0.0
    if truncated:
        found.metrics[f"eval/{name}-truncated_ratio"] = sum(map(bool, truncated)) / len(truncated)


def _number(hook: RunHookFunction, name: object, value: Any) -> float:  # Any: a user's
    try:
        return float(value)
    except (TypeError, ValueError):
        raise hook.broke(
            f"returned {type(value).__name__} for {name!r}; it is a list of Groups, a mapping with rewards, or a number"
        ) from None
