"""Each check of filters, generators and estimators: what passes it, and a plugin that does not."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from slimrl import Status, Verdict
from slimrl.testing import (
    advantage_checks,
    buffer_filter_checks,
    dynamic_filter_checks,
    generator_checks,
    resolve,
    suite,
)

CHECKS = {
    "dynamic_filter": dynamic_filter_checks.CHECKS,
    "buffer_filter": buffer_filter_checks.CHECKS,
    "generator": generator_checks.CHECKS,
    "advantage": advantage_checks.CHECKS,
}
GOOD = [
    ("dynamic_filter", "check_reward_nonzero_std"),
    ("buffer_filter", "pop_first"),
    ("generator", "single_turn"),
    ("advantage", "grpo"),
]
single_turn = resolve("generator", "single_turn")
grpo = resolve("advantage", "grpo")


@pytest.mark.parametrize(("kind", "name"), GOOD)
def test_our_own_pass_every_check(kind: Any, name: str) -> None:
    findings = list(suite(kind, name))
    assert [f for f in findings if f.outcome != "ok"] == []
    assert len(findings) == len(CHECKS[kind]) + 2


def test_a_fan_out_passes_every_check() -> None:
    findings = [check.find(cuts_in_two) for check in generator_checks.CHECKS]
    assert [f for f in findings if f.outcome != "ok"] == []
    assert "2 siblings" in [f.detail for f in findings]


def keeps_all(group: Any) -> Verdict:
    return Verdict(True)


def changes_group(group: Any) -> Verdict:
    group.samples.pop()
    return Verdict(True)


def averages(group: Any) -> Verdict:
    return Verdict(sum(sample.value for sample in group) > 0)


def spreads(group: Any) -> Verdict:
    import statistics

    return Verdict(statistics.stdev([s.value or 0.0 for s in group]) > 0, "flat")


def take_without_removing(buffer: list[Any], count: int) -> list[Any]:
    return buffer[:count]


def take_all(buffer: list[Any], count: int) -> list[Any]:
    taken = list(buffer)
    buffer.clear()
    return taken


def take_and_drop(buffer: list[Any], count: int) -> list[Any]:
    taken = buffer[:count]
    buffer.clear()
    return taken


def take_strangers(buffer: list[Any], count: int) -> list[Any]:
    from copy import deepcopy

    return [deepcopy(group) for group in buffer[:count]]


def take_and_mark(buffer: list[Any], count: int) -> list[Any]:
    taken = buffer[:count]
    del buffer[:count]
    for group in taken:
        group.source = "buffer"
    return taken


async def uneven(sample: Any, sampling: Any, engine: Any) -> Any:
    completion = await engine.generate(sample.prompt_tokens + sample.tokens, sampling)
    sample.tokens += completion.tokens
    sample.response += completion.text
    sample.status = Status.COMPLETED
    return sample


async def swallows(sample: Any, sampling: Any, engine: Any) -> Any:
    try:
        return await single_turn(sample, sampling, engine)
    except BaseException:
        sample.status = Status.COMPLETED
        return sample


async def starts_over(sample: Any, sampling: Any, engine: Any) -> Any:
    for name in ("tokens", "log_probs", "weight_versions", "loss_mask"):
        getattr(sample, name).clear()
    return await single_turn(sample, sampling, engine)


async def trains_on_its_own(sample: Any, sampling: Any, engine: Any) -> Any:
    sample = await single_turn(sample, sampling, engine)
    sample.append([1, 2], [-0.1, -0.1], [1, 1])
    return sample


async def always_completed(sample: Any, sampling: Any, engine: Any) -> Any:
    sample = await single_turn(sample, sampling, engine)
    sample.status = Status.COMPLETED
    return sample


async def asks_twice(sample: Any, sampling: Any, engine: Any) -> Any:
    for _ in range(2):
        completion = await engine.generate(sample.prompt_tokens + sample.tokens, sampling)
        sample.append(completion.tokens, completion.log_probs, completion.weight_versions, text=completion.text)
    sample.status = Status.COMPLETED
    return sample


async def returns_nothing(sample: Any, sampling: Any, engine: Any) -> Any:
    await single_turn(sample, sampling, engine)


async def relabels(sample: Any, sampling: Any, engine: Any) -> Any:
    sample.label = None
    return await single_turn(sample, sampling, engine)


last_prompt: list[int] = []


async def keeps_state(sample: Any, sampling: Any, engine: Any) -> Any:
    last_prompt[:] = [sample.sample_id]
    await asyncio.sleep(0)
    if last_prompt != [sample.sample_id]:
        sample.prompt_tokens = [1]
    return await single_turn(sample, sampling, engine)


async def cuts_in_two(sample: Any, sampling: Any, engine: Any) -> Any:
    """A proper fan-out: the second half of the answer is a sibling, behind the first half as its prompt."""
    sample = await single_turn(sample, sampling, engine)
    middle = len(sample.tokens) // 2
    if sample.status is Status.ABORTED or not middle:
        return sample
    rest = copy.deepcopy(sample)
    rest.prompt_tokens = sample.prompt_tokens + sample.tokens[:middle]
    for name in ("tokens", "log_probs", "weight_versions", "loss_mask"):
        setattr(rest, name, getattr(sample, name)[middle:])
        setattr(sample, name, getattr(sample, name)[:middle])
    return [sample, rest]


async def shares_metadata(sample: Any, sampling: Any, engine: Any) -> Any:
    found = await cuts_in_two(sample, sampling, engine)
    found[1].metadata = found[0].metadata
    return found


async def leaves_a_sibling_pending(sample: Any, sampling: Any, engine: Any) -> Any:
    found = await cuts_in_two(sample, sampling, engine)
    found[1].status = Status.PENDING
    return found


async def writes_twice(sample: Any, sampling: Any, engine: Any) -> Any:
    again = copy.deepcopy(sample)
    return [await single_turn(one, sampling, engine) for one in (sample, again)]


async def leads_with_another_prompt(sample: Any, sampling: Any, engine: Any) -> Any:
    return (await cuts_in_two(sample, sampling, engine))[::-1]


def by_position(rewards: Any, group_ids: Any) -> Any:
    return rewards - np.repeat(rewards.reshape(2, -1).mean(1), len(rewards) // 2)


def divides(rewards: Any, group_ids: Any) -> Any:
    out = np.zeros_like(rewards)
    for group in np.unique(group_ids):
        mine = group_ids == group
        with np.errstate(all="ignore"):
            out[mine] = (rewards[mine] - rewards[mine].mean()) / rewards[mine].std()
    return out


def whitens(rewards: Any, group_ids: Any) -> Any:
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)


def in_place(rewards: Any, group_ids: Any) -> Any:
    rewards -= rewards.mean()
    return rewards


def backwards(rollout: Any) -> Any:
    return -grpo(rollout)


def first_of_the_batch(rewards: Any, group_ids: Any) -> Any:
    return rewards - rewards[0]


def by_id(rewards: Any, group_ids: Any) -> Any:
    return (rewards * (group_ids % 7)).astype(np.float32)


def noisy(rewards: Any, group_ids: Any) -> Any:
    return rewards + np.float32(random.random())


def one_number(rewards: Any, group_ids: Any) -> Any:
    return rewards.mean()


BAD: list[tuple[str, Callable[..., Any], str, str, str]] = [
    ("dynamic_filter", lambda group: True, "verdict", "failure", "returned bool"),
    ("dynamic_filter", lambda group: Verdict(1), "verdict", "failure", "keep=1"),
    ("dynamic_filter", averages, "unscored", "failure", "TypeError"),
    ("dynamic_filter", spreads, "group_of_one", "failure", "StatisticsError"),
    ("dynamic_filter", changes_group, "group", "failure", "changed a group"),
    ("dynamic_filter", lambda group: Verdict(False, "too bad!"), "reason", "warning", "too bad!"),
    ("dynamic_filter", lambda group: Verdict(random.random() < 0.5, "x"), "same_twice", "warning", "differ"),
    ("buffer_filter", take_without_removing, "removes", "failure", "still in the buffer"),
    ("buffer_filter", take_all, "count", "failure", "it returned"),
    ("buffer_filter", take_and_drop, "removes", "warning", "drops groups"),
    ("buffer_filter", take_strangers, "groups", "failure", "not in the buffer"),
    ("buffer_filter", lambda buffer, count: None, "groups", "failure", "NoneType"),
    ("buffer_filter", take_and_mark, "unchanged", "failure", "changed"),
    ("generator", uneven, "together", "failure", "0 log_probs"),
    ("generator", swallows, "engine_error", "failure", "the engine failed and the sample is completed"),
    ("generator", swallows, "cancel", "failure", "CancelledError"),
    ("generator", starts_over, "partial", "failure", "not its first tokens"),
    ("generator", trains_on_its_own, "engines_tokens", "failure", "2 tokens"),
    ("generator", always_completed, "status", "warning", "completed"),
    ("generator", always_completed, "abort", "failure", "not aborted"),
    ("generator", asks_twice, "budget", "failure", "48 tokens"),
    ("generator", returns_nothing, "together", "failure", "NoneType"),
    ("generator", relabels, "prompt", "failure", "sample.label"),
    ("generator", keeps_state, "overlapping", "failure", "keep no state"),
    ("generator", shares_metadata, "siblings", "failure", "share one object as their metadata"),
    ("generator", leaves_a_sibling_pending, "siblings", "failure", "status pending"),
    ("generator", writes_twice, "budget", "warning", "48 tokens in 2 siblings"),
    ("generator", leads_with_another_prompt, "together", "failure", "not of the prompt"),
    ("advantage", one_number, "one_each", "failure", "shape ()"),
    ("advantage", by_position, "order", "failure", "not by position"),
    ("advantage", divides, "groups_of_one", "failure", "nan"),
    ("advantage", divides, "constant", "failure", "nan"),
    ("advantage", whitens, "apart", "warning", "whitens"),
    ("advantage", in_place, "inputs", "failure", "copy"),
    ("advantage", backwards, "more_is_better", "warning", "smaller advantage"),
    ("advantage", first_of_the_batch, "order", "failure", "position"),
    ("advantage", by_id, "ids", "failure", "other numbers"),
    ("advantage", noisy, "same_twice", "warning", "second time"),
]


@pytest.mark.parametrize(("kind", "plugin", "check", "outcome", "said"), BAD)
def test_a_check_finds_what_it_is_for(kind: str, plugin: Any, check: str, outcome: str, said: str) -> None:
    (one,) = (c for c in CHECKS[kind] if c.name == check)
    finding = one.find(plugin)
    assert (finding.outcome, finding.check, finding.sentence) == (outcome, check, one.sentence)
    assert said in finding.detail
