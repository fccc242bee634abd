"""The reward flags that `slimrl score` and `slimrl rescore` share with training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from slimrl.config.check import REMOTE_RM
from slimrl.errors import ConfigError, PluginError
from slimrl.registry import RewardReferences, RewardTable
from slimrl.registry.target import absolute


class RewardFlags(Protocol):
    """Flags that name rewards."""

    @property
    def rm_type(self) -> str | None: ...
    @property
    def custom_rm_path(self) -> str | None: ...
    @property
    def reward(self) -> Sequence[str]: ...
    @property
    def reward_key(self) -> str | None: ...
    @property
    def rm_url(self) -> str | None: ...


def references(flags: RewardFlags, rm_types: Sequence[str]) -> RewardReferences:
    """Which rewards score: --custom-rm-path, then --reward, then what a line's metadata names, then --rm-type.

    Raises PluginError where nothing does.
    """
    if flags.custom_rm_path is not None:
        return RewardReferences.one(flags.custom_rm_path, reward_key=flags.reward_key)
    mix = read_mix(flags.reward)
    if mix:
        return RewardReferences(mix, obeys_metadata=False, reward_key=flags.reward_key)
    name = (flags.rm_type or "").strip()
    if not name and not rm_types:
        raise PluginError("no reward: give --rm-type NAME, --reward NAME=WEIGHT or --custom-rm-path REFERENCE")
    return RewardReferences(((name, 1.0),) if name else (), routed=tuple(rm_types), reward_key=flags.reward_key)


def read_mix(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """References and weights out of REFERENCE=WEIGHT; the weight is what follows the last '=', else 1."""
    mix: list[tuple[str, float]] = []
    problems: list[str] = []
    for word in words:
        reference, equals, weight = word.rpartition("=")
        if not equals:
            reference, weight = word, "1"
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not reference.strip() or not math.isfinite(number):
            problems.append(f"--reward takes REWARD=WEIGHT, the weight a number; got {word!r}")
        mix.append((absolute(reference.strip()), number))
    if problems:
        raise PluginError(problems)
    return tuple(mix)


def check_scoring(rm_timeout: float | None, rm_workers: int | None) -> Iterator[str]:
    """What is wrong with the flags of the scorer."""
    if rm_timeout is not None and not 0 < rm_timeout < math.inf:
        yield f"--rm-timeout must be above 0; got {rm_timeout:g}"
    if rm_workers is not None and rm_workers < 1:
        yield f"--rm-workers must be 1 or more; got {rm_workers}"


def check_rm_url(rm_url: str | None, rewards: RewardTable) -> None:
    """Raise ConfigError where nothing reads --rm-url: what slimrl or others offer under another name."""
    by_path = any(component.resolved.entry_point is None for component in rewards.components())
    named = any(component.resolved.name.endswith(REMOTE_RM) for component in rewards.components())
    if rm_url is not None and not by_path and not named:
        raise ConfigError(f"--rm-url has no effect without {REMOTE_RM}")
