from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import Reward, RewardError, Sample, last_boxed
from slimrl.registry import Options
from slimrl.traits import traits_of
from slimrl_rewards import deepscaler
from slimrl_rewards import math as math_reward


@pytest.fixture(scope="module")
def score() -> Reward:
    return deepscaler.make(Options())


@pytest.fixture(scope="module")
def score_math() -> Reward:
    return math_reward.make(Options())


def sample(response: str, label: Any) -> Sample:
    return Sample(0, 0, 0, "", [], label=label, response=response)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (r"</think>\boxed{42}", 1),
        (r"<think>\boxed{7}</think> so \boxed{42}", 1),
        (r"<think>\boxed{42}</think> so \boxed{7}", 0),
        (r"<think>\boxed{42}</think> no box", 0),
        (r"</think>\boxed{7}</think>\boxed{42}", 1),
        (r"\boxed{7}###Response\boxed{42}", 1),
        (r"###Response\boxed{42}###Response\boxed{7}", 1),
        (r"###Response\boxed{7}</think>\boxed{42}", 1),
        (r"</think>\boxed{7} \boxed{42}", 1),
        (r"</think>\boxed{42} \boxed{7", 0),
        (r"\boxed{42}", 0),
        (r"### Response \boxed{42}", 0),
        (r"</THINK>\boxed{42}", 0),
        (r"</think>\fbox{42}", 0),
        ("</think>42", 0),
        ("", 0),
    ],
)
def test_the_answer_is_the_last_box_after_the_thinking(score: Reward, response: str, right: int) -> None:
    value = score(sample(response, "42"))
    assert value == right
    assert type(value) is int


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("42", 42, 1),
        ("0", 0, 1),
        ("2.5", 2.5, 1),
        ("42", r"\boxed{42}", 1),
        ("42", r"\boxed 42", 0),
        ("42", "", 0),
        ("", "", 0),
        (r"\frac12", "0.5", 1),
        ("2/4", r"\frac{1}{2}", 0),
    ],
)
def test_a_label_is_text_or_a_number_and_may_be_boxed(score: Reward, answer: str, label: Any, right: int) -> None:
    assert score(sample(f"</think>\\boxed{{{answer}}}", label)) == right


@pytest.mark.parametrize("label", [None, ["42"], {"answer": "42"}])
def test_any_other_label_is_an_error_that_names_it(score: Reward, label: Any) -> None:
    with pytest.raises(RewardError, match="label must be text or a number, not"):
        score(sample(r"</think>\boxed{42}", label))


def test_a_reply_without_an_answer_is_wrong_whatever_the_label(score: Reward) -> None:
    assert score(sample("no idea", None)) == 0


ANSWER = st.text(alphabet="0123456789xy+-*/^!().,= \\{}%$_e", max_size=20)


@settings(max_examples=100, deadline=3_000)
@given(ANSWER, ANSWER)
def test_after_thinking_it_says_what_math_says(score: Reward, score_math: Reward, answer: str, label: str) -> None:
    response = f"</think>\\boxed{{{answer}}}"
    assert score(sample(response, label)) == score_math(sample(response, label))


@settings(max_examples=100, deadline=3_000)
@given(ANSWER)
def test_an_answer_equals_itself_wherever_it_can_be_boxed(score: Reward, answer: str) -> None:
    response = f"</think>\\boxed{{{answer}}}"
    if answer and last_boxed(response) == answer:
        assert score(sample(response, answer)) == 1


@settings(max_examples=200, deadline=3_000)
@given(
    st.text(max_size=30) | st.sampled_from(["</think>", "###Response", "\\boxed{1}</think>\\boxed{1}"]),
    st.none() | st.integers() | st.floats() | st.text(max_size=10) | st.lists(st.integers(), max_size=2),
)
def test_it_raises_nothing_but_reward_errors(score: Reward, response: str, label: Any) -> None:
    try:
        assert score(sample(response, label)) in (0, 1)
    except RewardError:
        assert not isinstance(label, str | int | float)


@pytest.mark.parametrize("piece", [" ", "\\", "</think>", "###Response", "\\boxed{", "{", "}", "7", "\\boxed{1}"])
def test_a_megabyte_is_scored_in_linear_time(score: Reward, piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    for response in (text, f"</think>{text}", f"</think>\\boxed{{{text}}}"):
        assert score(sample(response, "x+1")) == 0
    assert time.process_time() - started < 5.0


def test_it_may_be_remembered_but_not_run_where_the_caller_waits(score: Reward, score_math: Reward) -> None:
    for reward in (score, score_math):
        assert traits_of(reward).pure
        assert not traits_of(reward).inline
