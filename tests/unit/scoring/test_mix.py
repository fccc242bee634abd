"""Several rewards of one sample as one score."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Group, Sample, Score
from slimrl.errors import PluginError
from slimrl.registry import Component
from slimrl.registry.rewards import read_mix
from slimrl.scoring.mix import WORSE, combine

REWARDS = """
async def judge(sample): return {"style": 0.5, "tone": 2.0, "note": "fine"}
def exact(sample): return float(sample.response == sample.label)
def fails(sample): raise ValueError("no such file")
def abstains(sample): return None
"""


def part(name: str, weight: float, score: Score) -> tuple[Component, Score]:
    return Component(name, weight, SimpleNamespace(name=name)), score  # type: ignore[arg-type]


def scored(scorer: Any, sample: Sample) -> Score:
    async def go() -> Score:
        async with scorer:
            await scorer.score(Group(0, [sample]))
        assert sample.score is not None
        return sample.score

    return asyncio.run(go())


def test_a_mix_is_the_weighted_sum_and_keeps_every_component(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    scorer = scorer_of(REWARDS, {"exact": 1.0, "judge": 0.1}, table={"reward_key": "style"})
    score = scored(scorer, make_sample("4", label="4"))
    assert score.value == pytest.approx(1.05)
    assert score.components == {"exact": 1.0, "judge": 0.5, "judge/style": 0.5, "judge/tone": 2.0}
    assert score.reward == {"exact": 1.0, "judge": {"style": 0.5, "tone": 2.0, "note": "fine"}}


def test_a_mix_with_an_unscored_component_is_unscored_and_says_whose_fault_it_is(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    score = scored(scorer_of(REWARDS, {"exact": 1.0, "abstains": 1.0, "fails": 0.5}), make_sample("4", label="4"))
    assert (score.status, score.value, score.by) == ("error", None, "fails")
    assert score.reason.startswith("fails: the reward raised ValueError: no such file")
    assert score.components == {"exact": 1.0}


def test_a_single_reward_of_weight_one_is_no_mix() -> None:
    score = Score.scored(0.5, components={"acc": 0.5})
    combined = combine([part("exact", 1.0, score)])
    assert (combined.value, combined.reward, combined.components, combined.by) == (0.5, 0.5, {"acc": 0.5}, "exact")
    assert combine([part("exact", 2.0, score)]).components == {"exact": 0.5, "exact/acc": 0.5}


@given(
    st.lists(
        st.tuples(st.floats(-2, 2), st.sampled_from(WORSE), st.floats(-1, 1)),
        min_size=2,
        max_size=5,
    )
)
def test_the_worst_status_wins_and_otherwise_the_sum(entries: list[tuple[float, Any, float]]) -> None:
    parts = [
        part(f"r{i}", weight, Score.scored(value) if status == "scored" else Score(status, reason="x"))
        for i, (weight, status, value) in enumerate(entries)
    ]
    combined = combine(parts)
    assert combined.status == max((status for _, status, _ in entries), key=WORSE.index)
    if combined.status == "scored":
        assert combined.value == pytest.approx(sum(weight * value for weight, _, value in entries))
    else:
        assert combined.value is None
        assert combined.by in combined.reason


def test_the_weight_is_what_follows_the_last_equals_sign_and_may_be_left_out() -> None:
    words = ["math", "mypkg/length=0.1", "pkg.mod:attr=-2", "a=b.mod:f=3"]
    assert read_mix(words) == (("math", 1.0), ("mypkg/length", 0.1), ("pkg.mod:attr", -2.0), ("a=b.mod:f", 3.0))


@pytest.mark.parametrize("word", ["=1", "math=", "math=x", "math=nan", "math=inf", " = 1"])
def test_a_word_of_a_mix_that_makes_no_sense_is_refused(word: str) -> None:
    with pytest.raises(PluginError, match="--reward takes REWARD=WEIGHT"):
        read_mix([word])


def test_a_reward_is_in_a_mix_once() -> None:
    with pytest.raises(PluginError, match="names 'math' twice"):
        read_mix(["math=1", "f1", "math=0.5"])
