from __future__ import annotations

from slimrl import Sample, reward_traits
from slimrl.registry import Options
from slimrl.traits import traits_of
from slimrl_rewards import random_reward


def test_it_is_an_integer_zero_or_one_and_both_occur() -> None:
    score = random_reward.make(Options())
    sample = Sample(0, 0, 0, "", [], response="the same reply")
    scores = [score(sample) for _ in range(200)]
    assert set(scores) == {0, 1}
    assert {type(value) for value in scores} == {int}


def test_it_makes_no_promise_to_score_the_same_again() -> None:
    assert traits_of(random_reward.make(Options())) == traits_of(reward_traits(inline=True)(lambda sample: 0))
