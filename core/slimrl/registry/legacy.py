"""slime's spellings and call shapes: functions written for slime run here as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any, Final

from slimrl.errors import PluginError
from slimrl.protocols import DynamicFilter, PluginOptions, Reward, RewardValue
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


class SlimeArguments:
    """slime's flat `args`: every configuration field by its name, read-only."""

    def __init__(self, options: PluginOptions) -> None:
        instances = options.values() if isinstance(options, Mapping) else ()
        self.__dict__["_values"] = {
            field.name: getattr(instance, field.name)
            for instance in instances
            if is_dataclass(instance)
            for field in fields(instance)
        }

    def __getattr__(self, name: str) -> Any:  # Any: as many types as there are flags
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"args.{name}: slimrl has no configuration field of this name") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"args.{name} cannot be set: the configuration is frozen")


class SlimeSample:
    """A sample under slime's attribute names; everything else is the sample's own."""

    __slots__ = ("_sample",)

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    @property
    def tokens(self) -> list[int]:
        """Prompt and response."""
        return self._sample.prompt_tokens + self._sample.tokens

    @property
    def response_length(self) -> int:
        """Response tokens."""
        return len(self._sample.tokens)

    @property
    def reward(self) -> Any:  # Any: what the user's reward returned
        """What the reward returned; None before scoring."""
        return None if self._sample.score is None else self._sample.score.reward

    @property
    def index(self) -> int:
        """Position in the stream of samples."""
        return self._sample.sample_id

    @property
    def group_index(self) -> int:
        """The group's id."""
        return self._sample.group_id

    def get_reward_value(self, args: object) -> float | None:
        """The number that is trained on, after `--reward-key`; None for a sample without a score."""
        return self._sample.value

    def __getattr__(self, name: str) -> Any:  # Any: any attribute of the sample
        return getattr(self._sample, name)


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


def bind_dynamic_filter(function: Callable[..., Any], options: PluginOptions, is_async: bool) -> DynamicFilter:
    """slime's `(args, samples, **kwargs)`, which returns a bool or an object with `keep`, `reason` and so on."""
    if is_async:
        raise PluginError(f"dynamic filter {function!r} is `async def`; a filter is a plain function")
    arguments = SlimeArguments(options)

    def keep(group: Group) -> Verdict:
        # slime's filters do arithmetic on every value, so only samples that have one are shown.
        result = function(arguments, [SlimeSample(sample) for sample in group if sample.value is not None])
        if isinstance(result, bool):
            return Verdict(result)
        insufficient = bool(getattr(result, "keep_when_insufficient", False))
        return Verdict(bool(result.keep), str(result.reason or ""), insufficient)

    return keep
