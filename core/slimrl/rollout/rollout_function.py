"""A batch that a function of the user's fills."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from slimrl.data.buffer import is_finished
from slimrl.errors import RolloutError
from slimrl.protocols import DynamicFilter, EngineClient, Rollout
from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.slime_arguments import router_of, set_values
from slimrl.rollout.loop import Filled, FillSettings, Produce, judge, reward_trouble
from slimrl.rollout.produce import Score, misaligned
from slimrl.rollout.slime_groups import SlimeSupply, group_of, groups_of
from slimrl.rollout.supply import RunSupply
from slimrl.types import Group, Sample, SamplingParams, Status, Verdict

DROPPED = Verdict(keep=False, reason="rollout_function")


@dataclass(frozen=True)
class OneRollout:
    """Implements Rollout for one step."""

    step: int
    wanted: int
    sampling: SamplingParams
    engine: EngineClient
    supply: RunSupply
    keep: DynamicFilter | None
    _produce: Produce

    def take(self, count: int) -> list[Group]:
        """The next `count` groups, those that wait in the buffer first."""
        return self.supply.take(count)

    async def produce(self, group: Group) -> Group:
        """The group with every sample generated, seen by the sample hooks and scored; one that is finished as it is."""
        return group if is_finished(group) else await self._produce(group)

    def judge(self, group: Group) -> Verdict:
        """What the dynamic filter says of a finished group; it is the group's verdict from then on."""
        group.verdict = judge(group, self.keep)
        return group.verdict

    def put_back(self, group: Group) -> None:
        """Keep a group for a later batch."""
        self.supply.put_back(group)


async def fill_with(
    hook: RunHookFunction, rollout: OneRollout, score: Score, settings: FillSettings
) -> tuple[Filled, dict[str, float]]:
    """The batch that the function returns, checked, and metrics of its own.

    Samples that it did not score are scored. Groups that were taken and are neither returned nor put back count as
    dropped where they are finished; the others wait for the next batch. RolloutError names what is wrong; nothing
    that was taken is lost then.
    """
    try:
        kept, metrics = await (_slimes(hook, rollout) if hook.is_slime else _ours(hook, rollout))
        _check(hook, kept, rollout.wanted)
        await asyncio.gather(*(score(group) for group in kept))
        for group in kept:
            if group.verdict is None or not group.verdict.keep:
                group.verdict = Verdict(keep=True)
        if all(sample.value is None for group in kept for sample in group):
            raise hook.broke("returned no sample with a score")
        filled = Filled(sorted(kept, key=lambda group: group.group_id))
        if trouble := reward_trouble(filled, filled.kept, settings):
            raise RolloutError(trouble)
    except BaseException:
        for group in list(rollout.supply.taken.values()):
            rollout.supply.put_back(group)
        raise
    returned = {group.group_id for group in kept}
    for group in list(rollout.supply.taken.values()):
        if group.group_id in returned:
            continue
        if is_finished(group):
            group.verdict = DROPPED if group.verdict is None or group.verdict.keep else group.verdict
            filled.dropped.append(group)
        else:
            rollout.supply.put_back(group)
    return filled, metrics


async def _ours(hook: RunHookFunction, rollout: Rollout) -> tuple[list[Group], dict[str, float]]:
    returned = await hook.wait(rollout.step, rollout)
    groups, metrics = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, {})
    if not isinstance(groups, list) or not all(isinstance(group, Group) for group in groups):
        raise hook.broke(f"returned {type(groups).__name__}; it returns a list of Groups, or that and metrics")
    return groups, _numbers(hook, metrics)


async def _slimes(hook: RunHookFunction, rollout: OneRollout) -> tuple[list[Group], dict[str, float]]:
    set_values(hook.args, **router_of(rollout.engine))
    supply = SlimeSupply(hook, rollout.supply)
    returned = await in_thread(hook, rollout.step, supply, evaluation=False)
    groups = groups_of(hook, getattr(returned, "samples", returned))
    metrics = _numbers(hook, getattr(returned, "metrics", None) or {})
    for group_id in rollout.supply.taken.keys() - {group.group_id for group in groups}:
        shown = supply.shown.get(group_id, [])
        if shown and all(one.reward is not None for one in shown):  # generated, scored and left out: dropped
            rollout.supply.taken[group_id] = group_of(hook, shown)
    return groups, metrics


async def in_thread(hook: RunHookFunction, step: int, supply: SlimeSupply, *, evaluation: bool) -> Any:  # Any: a user's
    """Call a function of slime's shape, which waits for the engine itself, beside the event loop."""
    keywords = {"evaluation": evaluation} if "evaluation" in hook.keywords else {}
    return await asyncio.to_thread(hook, hook.args, step, supply, **keywords)


def _check(hook: RunHookFunction, groups: list[Group], wanted: int) -> None:
    if len(groups) != wanted:
        raise hook.broke(f"returned {len(groups)} groups; a batch has {wanted} (--rollout-batch-size)")
    _check_ids(hook, [group.group_id for group in groups], "group")
    samples = [sample for group in groups for sample in group]
    _check_ids(hook, [sample.sample_id for sample in samples], "sample")
    for sample in samples:
        if problem := _problem(sample):
            raise hook.broke(f"returned sample {sample.sample_id} {problem}")


def _check_ids(hook: RunHookFunction, ids: list[int], noun: str) -> None:
    seen: set[int] = set()
    for one in ids:
        if one in seen:
            raise hook.broke(f"returned {noun} {one} twice")
        seen.add(one)


def _problem(sample: Sample) -> str:
    if problem := misaligned(sample):
        return problem
    if sample.status is Status.PENDING:
        return "which is still pending; generate it, or put its group back"
    if not sample.prompt_tokens:
        return "without prompt tokens"
    return ""


def _numbers(hook: RunHookFunction, metrics: Any) -> dict[str, float]:  # Any: a mapping of the user's
    try:
        return {str(name): float(value) for name, value in dict(metrics).items()}
    except (TypeError, ValueError) as error:
        raise hook.broke(f"returned metrics that are no numbers: {error}") from error
