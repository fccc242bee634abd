"""Rewards that are called with a whole group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from slimrl import Group, Sample, Score, Status

REWARDS = """
import time
from slimrl import reward_traits

def rank(samples):
    order = sorted(samples, key=lambda s: len(s.response))
    return [order.index(s) / len(samples) for s in samples]

async def rank_async(samples): return rank(samples)
def short(samples): return [1.0] * (len(samples) - 1)
def number(samples): return 1.0
def mixed(samples): return [{"score": 1.0, "why": "x"}, None, float("nan"), 2]
def raises(samples): raise ValueError("no ranking")
def hangs(samples): time.sleep(100)
def sizes(samples): return [len(samples)] * len(samples)

@reward_traits(group=True)
def says_so(samples): return [len(samples)] * len(samples)

def single(sample): return 0.25
"""


def scored(scorer: Any, samples: list[Sample]) -> list[Score]:
    async def go() -> list[Score]:
        async with scorer:
            await scorer.score(Group(0, samples))
        return [sample.score for sample in samples if sample.score is not None]

    return asyncio.run(go())


@pytest.fixture
def four(make_sample: Callable[..., Sample]) -> list[Sample]:
    return [make_sample("x" * n) for n in (3, 1, 4, 2)]


@pytest.mark.parametrize("name", ["rank", "rank_async"])
def test_the_whole_group_is_in_one_call_and_each_sample_gets_its_own(
    name: str, scorer_of: Callable[..., Any], four: list[Sample]
) -> None:
    found = scored(scorer_of(REWARDS, {name: 1.0}, group=True), four)
    assert [score.value for score in found] == [0.5, 0.0, 0.75, 0.25]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("short", "error", "returned 3 scores for a group of 4"),
        ("number", "error", "returned float for a group of 4"),
        ("raises", "error", "ValueError: no ranking"),
        ("hangs", "timeout", "no result within 0.5 s"),
    ],
)
def test_a_call_that_goes_wrong_is_the_outcome_of_all(
    name: str, status: str, said: str, scorer_of: Callable[..., Any], four: list[Sample]
) -> None:
    found = scored(scorer_of(REWARDS, {name: 1.0}, group=True, timeout_s=0.5), four)
    assert {score.status for score in found} == {status}
    assert all(said in score.reason and score.by == name for score in found)


def test_each_entry_is_an_outcome_by_itself(scorer_of: Callable[..., Any], four: list[Sample]) -> None:
    found = scored(scorer_of(REWARDS, {"mixed": 1.0}, group=True, table={"reward_key": "score"}), four)
    assert [(score.status, score.value) for score in found] == [
        ("scored", 1.0),
        ("abstained", None),
        ("error", None),
        ("scored", 2.0),
    ]


def test_samples_that_failed_or_were_aborted_are_left_out_and_abstain(
    scorer_of: Callable[..., Any], four: list[Sample]
) -> None:
    four[1].status, four[2].status = Status.FAILED, Status.ABORTED
    found = scored(scorer_of(REWARDS, {"sizes": 1.0}, group=True), four)
    assert [(score.status, score.value) for score in found] == [
        ("scored", 2.0),
        ("abstained", None),
        ("abstained", None),
        ("scored", 2.0),
    ]


def test_a_reward_may_say_itself_that_it_takes_groups_and_others_in_the_mix_do_not(
    scorer_of: Callable[..., Any], four: list[Sample]
) -> None:
    found = scored(scorer_of(REWARDS, {"says_so": 1.0, "single": 2.0}), four)
    assert [score.value for score in found] == [4.5] * 4
