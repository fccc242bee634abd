"""Groups as functions written for slime see them: lists of samples, and a data source with slime's methods."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.slime_sample import SlimeSample, flat, views
from slimrl.rollout.supply import RunSupply
from slimrl.types import Group


class SlimeSupply:
    """slime's data source over a supply; what it does not have is the user's own data source's."""

    def __init__(self, hook: RunHookFunction, supply: RunSupply) -> None:
        self._hook = hook
        self._supply = supply
        self.shown: dict[int, list[SlimeSample]] = {}

    def get_samples(self, num_samples: int) -> list[list[SlimeSample]]:
        """The next groups, each a list of samples."""
        groups = self._supply.take(num_samples)
        self.shown |= {group.group_id: views(group) for group in groups}
        return [self.shown[group.group_id] for group in groups]

    def add_samples(self, samples: Sequence[Any]) -> None:  # Any: a list of lists of samples
        """Keep groups for a later batch: the user's own data source does, where it has such a method."""
        own = getattr(self._supply.own, "add_samples", None)
        if own is not None:
            for entries in samples:
                self._supply.taken.pop(flat(entries)[0].group_index, None)
            own(samples)
            return
        for group in groups_of(self._hook, samples):
            self._supply.put_back(deepcopy(group))  # it may be in a batch as well

    def __len__(self) -> int:
        return len(self._supply)

    def __getattr__(self, name: str) -> Any:  # Any: whatever the user's class has
        if name.startswith("_") or self._supply.own is None:
            raise AttributeError(f"data_source.{name}: it has get_samples, add_samples and a length")
        return getattr(self._supply.own, name)


def groups_of(hook: RunHookFunction, returned: Any) -> list[Group]:  # Any: what a user's function returned
    """Groups from lists of samples, every sample checked; a fan-out's list within a list is a part of its group."""
    if not isinstance(returned, list | tuple):
        raise hook.broke(f"returned {type(returned).__name__}; it returns a list of groups, each a list of samples")
    return [group_of(hook, entries) for entries in returned]


def group_of(hook: RunHookFunction, entries: Any) -> Group:  # Any: as above
    """One group from its samples; RolloutError names the sample that does not hold together."""
    found = flat(entries)
    if not found or not all(isinstance(one, SlimeSample) for one in found):
        kinds = ", ".join(sorted({type(one).__name__ for one in found})) or "nothing"
        raise hook.broke(f"returned a group of {kinds}; a group is a list of samples that the data source handed out")
    key = getattr(hook.args, "reward_key", None)
    try:
        samples = [one.write_back(key) for one in found]
    except (ValueError, TypeError) as error:
        raise hook.broke(f"left {error}") from error
    ids = {sample.group_id for sample in samples}
    if len(ids) > 1:
        raise hook.broke(f"returned samples of the groups {', '.join(map(str, sorted(ids)))} in one list")
    return Group(samples[0].group_id, samples, source=found[0].source_name)


def shown_groups(groups: Sequence[Group]) -> list[list[SlimeSample]]:
    """Each group as a list of samples."""
    return [views(group) for group in groups]


def write_back(hook: RunHookFunction, shown: Sequence[Sequence[SlimeSample]]) -> None:
    """Make the changes that a hook made to samples the samples' own."""
    for entries in shown:
        group_of(hook, list(entries))
