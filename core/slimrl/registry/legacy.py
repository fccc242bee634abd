"""slime's spellings and call shapes: functions written for slime run here as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Final

from slimrl.protocols import BufferFilter, DynamicFilter, PluginOptions, Reward, RewardValue
from slimrl.registry.slime_arguments import SlimeArguments
from slimrl.registry.slime_sample import SlimeSample, views
from slimrl.types import Group, Sample, Verdict

WELL_KNOWN: Final = MappingProxyType(
    {
        "check_reward_nonzero_std": "check_reward_nonzero_std",
        "check_reward_nonzero_std_with_fallback": "check_reward_nonzero_std_with_fallback",
        "pop_first": "pop_first",
    }
)
"""The last part of a slime path, and the name under which ours is offered."""


def well_known_name(reference: str) -> str | None:
    """Our name for one of slime's own functions, whatever module of slime it is said to be in."""
    if not reference.startswith("slime."):
        return None
    return WELL_KNOWN.get(reference.replace(":", ".").rpartition(".")[2])


def bind_reward(function: Callable[..., Any], options: PluginOptions, is_async: bool) -> Reward:
    """slime's `(args, sample, **kwargs)` as a reward of ours."""
    arguments = SlimeArguments(options)

    async def reward_async(sample: Sample) -> RewardValue:
        value: RewardValue = await function(arguments, SlimeSample(sample))
        return value

    def reward(sample: Sample) -> RewardValue:
        value: RewardValue = function(arguments, SlimeSample(sample))
        return value

    return reward_async if is_async else reward


def bind_group_reward(function: Callable[..., Any], options: PluginOptions, is_async: bool) -> Callable[..., Any]:
    """slime's `(args, samples, **kwargs)`, which returns one reward a sample, as a reward of a whole group."""
    arguments = SlimeArguments(options)

    async def reward_async(samples: Sequence[Sample]) -> Any:
        return await function(arguments, [SlimeSample(sample) for sample in samples])

    def reward(samples: Sequence[Sample]) -> Any:
        return function(arguments, [SlimeSample(sample) for sample in samples])

    return reward_async if is_async else reward


def bind_dynamic_filter(function: Callable[..., Any], options: PluginOptions) -> DynamicFilter:
    """slime's `(args, samples, **kwargs)`, which returns a bool or an object with `keep`, `reason` and so on."""
    arguments = SlimeArguments(options)

    def keep(group: Group) -> Verdict:
        # slime's filters do arithmetic on every value, so only samples that have one are shown.
        result = function(arguments, [SlimeSample(sample) for sample in group if sample.value is not None])
        if isinstance(result, bool):
            return Verdict(result)
        insufficient = bool(getattr(result, "keep_when_insufficient", False))
        return Verdict(bool(result.keep), str(result.reason or ""), insufficient)

    return keep


def bind_buffer_filter(function: Callable[..., Any], options: PluginOptions) -> BufferFilter:
    """slime's `(args, rollout_id, buffer, num_samples)`, which takes lists of samples out of the buffer.

    `rollout_id` is None, as in slime. A group that is returned leaves the buffer, one that is removed does too.
    """
    arguments = SlimeArguments(options)

    def take(buffer: list[Group], count: int) -> list[Group]:
        groups = [(group, views(group)) for group in buffer]
        shown = [entries for _, entries in groups]
        returned = list(function(arguments, None, shown, count))
        by_entries = {id(entries): group for group, entries in groups}
        if any(id(entries) not in by_entries for entries in returned):
            raise ValueError("it returned a group that is not in the buffer")
        left = {id(entries) for entries in shown} - {id(entries) for entries in returned}
        buffer[:] = [group for group, entries in groups if id(entries) in left]
        return [by_entries[id(entries)] for entries in returned]

    return take
