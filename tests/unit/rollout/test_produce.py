"""Faults in generation are data: a sample is tried again within a budget, then FAILED with its reason."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.errors import EngineError
from slimrl.rollout.produce import produce
from slimrl.testing import FakeEngine
from slimrl.types import Group, Sample, SamplingParams, Status
from slimrl_generators.single_turn import generate as single_turn


def group_of(count: int) -> Group:
    samples = [
        Sample(group_id=0, sample_id=i, rollout_id=i, prompt="p", prompt_tokens=[1], seed=i, metadata={"turns": []})
        for i in range(count)
    ]
    return Group(0, samples)


class Flaky:
    """Writes one token and a metadata entry, then fails until it was called often enough for a sample."""

    def __init__(self, failures: dict[int, int], error: Exception | None = None) -> None:
        self.failures = dict(failures)
        self.error = error or OSError("the tool broke")
        self.seeds: dict[int, list[int | None]] = {}
        self.found: list[Sample] = []

    async def __call__(self, sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        self.seeds.setdefault(sample.sample_id, []).append(sampling.sampling_seed)
        self.found.append(copy.deepcopy(sample))
        sample.append([7], [-0.5], [0], text="x")
        sample.metadata["turns"].append("x")
        if self.failures.get(sample.sample_id, 0) > 0:
            self.failures[sample.sample_id] -= 1
            raise self.error
        sample.status = Status.COMPLETED
        return sample


def run(group: Group, generate: Any, retries: int) -> None:
    async def score(group: Group) -> None:
        pass

    asyncio.run(produce(group, generate, FakeEngine(), score, SamplingParams(max_new_tokens=4), retries))


def test_a_retry_starts_the_sample_over_with_the_same_seed() -> None:
    group, generate = group_of(1), Flaky({0: 1})
    run(group, generate, retries=1)
    sample = group.samples[0]
    assert generate.found[0] == generate.found[1]
    assert generate.seeds == {0: [0, 0]}
    assert (sample.status, sample.reason, sample.tokens, sample.loss_mask) == (Status.COMPLETED, "", [7], [1])
    assert (sample.response, sample.metadata) == ("x", {"turns": ["x"]})


def test_a_retry_keeps_what_an_earlier_rollout_left() -> None:
    group, generate = group_of(1), Flaky({0: 1})
    group.samples[0].append([3, 4], [-0.1, -0.2], [0, 0], text="ab")
    run(group, generate, retries=1)
    assert (group.samples[0].tokens, group.samples[0].response) == ([3, 4, 7], "abx")


def test_a_sample_that_fails_past_the_budget_says_why_and_the_others_go_on() -> None:
    group, generate = group_of(3), Flaky({1: 9})
    run(group, generate, retries=2)
    assert [s.status for s in group] == [Status.COMPLETED, Status.FAILED, Status.COMPLETED]
    assert group.samples[1].reason == "OSError: the tool broke"
    assert len(generate.seeds[1]) == 3


def test_a_request_that_the_client_gave_up_on_is_not_asked_again() -> None:
    group, generate = group_of(1), Flaky({0: 9}, EngineError("refused with HTTP 400"))
    run(group, generate, retries=3)
    assert (group.samples[0].status, len(generate.seeds[0])) == (Status.FAILED, 1)


def test_a_sample_that_the_generator_itself_marks_failed_is_tried_again() -> None:
    calls: list[int] = []

    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        calls.append(sample.sample_id)
        sample.status = Status.COMPLETED if len(calls) == 2 else Status.FAILED
        return sample

    group = group_of(1)
    run(group, generate, retries=1)
    assert (group.samples[0].status, len(calls)) == (Status.COMPLETED, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sample: sample.tokens.append(9), "with 2 tokens, 1 log_probs, 1 loss_mask, 1 weight_versions"),
        (lambda sample: sample.log_probs.clear(), "with 1 tokens, 0 log_probs, 1 loss_mask, 1 weight_versions"),
        (lambda sample: setattr(sample, "loss_mask", [2]), "with other values than 0 and 1 in its loss_mask"),
        (lambda sample: setattr(sample, "loss_mask", [0.5]), "with other values than 0 and 1 in its loss_mask"),
        (lambda sample: setattr(sample, "log_probs", [float("nan")]), "with log_probs that are not all finite numbers"),
        (lambda sample: setattr(sample, "log_probs", [None]), "with log_probs that are not all finite numbers"),
    ],
)
def test_a_sample_whose_numbers_are_not_one_a_token_has_failed_and_moves_no_others(change: Any, said: str) -> None:
    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        sample.append([7], [-0.5], [0])
        sample.status = Status.COMPLETED
        if sample.sample_id == 0:
            change(sample)
        return sample

    group = group_of(2)
    run(group, generate, retries=0)
    first, second = group
    assert (first.status, first.reason) == (Status.FAILED, f"ValueError: the generator returned sample 0 {said}")
    assert len({len(values) for values in (first.tokens, first.log_probs, first.loss_mask)}) == 1
    assert (second.status, second.tokens) == (Status.COMPLETED, [7])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_each_failure_within_the_budget_costs_one_try(failures: list[int], retries: int) -> None:
    group, generate = group_of(len(failures)), Flaky(dict(enumerate(failures)))
    run(group, generate, retries)
    for sample, count in zip(group, failures, strict=True):
        assert len(generate.seeds[sample.sample_id]) == 1 + min(count, retries)
        assert (sample.status is Status.FAILED) == (count > retries)
        assert len(sample.tokens) == 1


def test_a_response_has_what_its_prompt_leaves_of_the_context() -> None:
    asked: list[int] = []

    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        asked.append(sampling.max_new_tokens)
        sample.status = Status.COMPLETED
        return sample

    async def score(group: Group) -> None:
        pass

    group = group_of(3)
    for sample, length in zip(group, (3, 8, 10), strict=True):
        sample.prompt_tokens = [1] * length
    sampling = SamplingParams(max_new_tokens=4, max_context_len=10)
    asyncio.run(produce(group, generate, FakeEngine(), score, sampling))
    assert asked == [4, 2]
    assert [s.status for s in group] == [Status.COMPLETED, Status.COMPLETED, Status.TRUNCATED]


def test_what_was_generated_before_counts_in_the_context() -> None:
    engine, group = FakeEngine("word " * 20), group_of(2)
    for sample, count in zip(group, (5, 9), strict=True):
        sample.append([7] * count, [-0.5] * count, [0] * count)

    async def score(group: Group) -> None:
        pass

    sampling = SamplingParams(max_new_tokens=40, max_context_len=10)
    asyncio.run(produce(group, single_turn, engine, score, sampling))
    assert [len(s.tokens) for s in group] == [9, 9]
    assert [s.status for s in group] == [Status.TRUNCATED] * 2
    assert [len(request.input_ids) for request in engine.requests] == [6]
