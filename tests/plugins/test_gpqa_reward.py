from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Reward, RewardError, Sample
from slimrl.registry import Options
from slimrl.traits import traits_of
from slimrl_rewards import gpqa

CITIES = ["Paris", "London", "New York", "York"]


@pytest.fixture(scope="module")
def score() -> Reward:
    return gpqa.make(Options())


def sample(response: str, label: Any, **metadata: Any) -> Sample:
    return Sample(0, 0, 0, "", [], label=label, metadata=metadata, response=response)


@pytest.mark.parametrize(
    "response",
    [
        "B",
        "(B)",
        "b",
        "Answer: B",
        "answerB",
        "answerisB",
        "The answer is B.",
        "The answer is (B)",
        "The answer is: **B**",
        "**Answer:** B. A photon is emitted.",
        "The correct option is [B], not D.",
        "Option B",
        "B is correct",
        "C. No: B is the correct choice",
        "Therefore Bis correct",
        "\\boxed{\\text{B}}",
        "Answer - B",
        "I think it is B",
        "B. I am sure",
        "The answer: it is B",
        "The answer depends on energy. So B.",
        "Options A and D are wrong, so it must be B",
        "Of A, B, C and D only C fails; the answer is B",
        "<think>The answer is A.</think>B",
        "x</think>The answer is A</think>The answer is B",
    ],
)
def test_the_letter_that_is_chosen_is_read(score: Reward, response: str) -> None:
    value = score(sample(response, "B"))
    assert value == 1.0
    assert type(value) is float


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A",
        "Answer: Z",
        "The answer is A. B is wrong.",
        "Answer: B</think>",
        "Answer: 6 carbons",
        "probably",
        "Answer: A, B, C, D",
        "Answer: B, A, C or D.",
        "A B C D E F G H I B",
        "a b c d",
    ],
)
def test_another_letter_or_every_letter_is_wrong(score: Reward, response: str) -> None:
    assert score(sample(response, "B")) == 0.0


@pytest.mark.parametrize(
    ("label", "metadata"),
    [
        ("B", {}),
        (" b ", {}),
        (1, {}),
        (1.0, {"choices": CITIES}),
        (1, {"correct_letter": "C"}),
        ("C", {"correct_letter": "b"}),
        (None, {"correct_letter": "B"}),
        ("London", {"choices": CITIES}),
        ("london!", {"choices": {"B": "London", "A": "Paris"}}),
        ("x", {"choices": "wxyz"}),
        (None, {"correct_letter": "b", "valid_letters": ["a", "b"]}),
    ],
)
def test_the_correct_letter_is_known_in_several_ways(score: Reward, label: Any, metadata: dict[str, Any]) -> None:
    assert score(sample("The answer is B", label, **metadata)) == 1.0
    assert score(sample("The answer is A", label, **metadata)) == 0.0


def test_only_letters_of_the_question_are_options(score: Reward) -> None:
    assert score(sample("B. Not in C.", "B", choices=["yes", "no"])) == 1.0
    assert score(sample("Answer: K", "K", valid_letters=["K", "L"])) == 1.0
    assert score(sample("Answer: K", "B", choices=CITIES)) == 0.0


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("It must be London.", 1.0),
        ("\\boxed{london}", 1.0),
        ("It must be Paris.", 0.0),
        ("London or Paris", 0.0),
        ("paris, london, new york, york", 0.0),
        ("Londonderry", 0.0),
        ("nowhere", 0.0),
    ],
)
def test_without_a_letter_the_text_of_the_option_counts(score: Reward, response: str, right: float) -> None:
    assert score(sample(response, "London", choices=CITIES)) == right
    assert score(sample(response, 1, choices=CITIES)) == right


def test_an_option_within_a_longer_one_is_not_named(score: Reward) -> None:
    assert score(sample("new york", "New York", choices=CITIES)) == 1.0
    assert score(sample("new york", "York", choices=CITIES)) == 0.0
    assert score(sample("york", "York", choices=CITIES)) == 1.0


def test_a_text_of_the_metadata_counts_where_there_are_no_choices(score: Reward) -> None:
    assert score(sample("It is Rome.", None, correct_answer="rome", answer_text="Oslo")) == 1.0
    assert score(sample("北京", "北京", choices=["東京", "北京"])) == 1.0
    assert score(sample("東京", "北京", choices=["東京", "北京"])) == 0.0


@pytest.mark.parametrize("label", [None, "", ["B"], {"a": 1}, -1, 99, 1.5, float("nan")])
def test_without_anything_correct_nothing_is_right(score: Reward, label: Any) -> None:
    assert score(sample("Answer: B", label)) == 0.0


@pytest.mark.parametrize("metadata", [{"choices": 4}, {"choices": CITIES, "valid_letters": 4}])
def test_metadata_that_cannot_be_read_is_an_error_that_names_it(score: Reward, metadata: dict[str, Any]) -> None:
    with pytest.raises(RewardError, match=r"gpqa: metadata\.(choices|valid_letters) must be"):
        score(sample("Answer: B", "B", **metadata))


def test_the_sample_stays_as_it_is(score: Reward) -> None:
    scored = sample("Answer: B", "b", choices={"A": "yes", "B": "no"}, valid_letters=["a", "b"], correct_letter="b")
    before = copy.deepcopy(scored)
    assert score(scored) == 1.0
    assert scored == before


TEXT = st.lists(
    st.sampled_from(
        ["answer", "is", ":", "A", "B", "C", "I", "a", "I am", "correct", "(", ",", "and", "London", "</think>"]
    ),
    max_size=10,
).map(" ".join) | st.text(max_size=20)
JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3))


@given(
    TEXT, JSON, st.dictionaries(st.sampled_from(["choices", "valid_letters", "correct_letter", "answer_text"]), JSON)
)
def test_it_raises_nothing_but_reward_errors(response: str, label: Any, metadata: dict[str, Any]) -> None:
    try:
        assert gpqa.make(Options())(sample(response, label, **metadata)) in (0.0, 1.0)
    except RewardError as error:
        assert "metadata." in str(error)


@given(TEXT, st.permutations(["Paris", "London", "Berlin", "Rome"]))
def test_no_reply_is_right_for_two_options(response: str, choices: list[str]) -> None:
    score = gpqa.make(Options())
    assert sum(score(sample(response, label, choices=choices)) for label in range(4)) <= 1.0


@given(
    st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "The answer is {}.", "{} is correct", "Final answer: {}"])
)
def test_a_plain_choice_is_right_for_its_letter_alone(letter: str, form: str) -> None:
    score = gpqa.make(Options())
    rights = [score(sample(form.format(letter), label, choices=CITIES)) for label in "ABCD"]
    assert rights == [float(label == letter) for label in "ABCD"]


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "answer",
        "answer ",
        "answer is ",
        "option: ",
        "A ",
        "A is ",
        "a is the ",
        "I ",
        "A,",
        "\\",
        "9",
        "{",
        "_",
        "London ",
    ],
)
def test_a_long_reply_is_scored_in_linear_time(score: Reward, piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    for response in (text, f"answer{text}", f"B{text}", f"{text}correct"):
        score(sample(response, "London", choices=CITIES))
        score(sample(response, "B"))
    score(sample("Answer: B", text, choices=[text, "no"]))
    assert time.process_time() - started < 8.0


def test_it_may_be_remembered_and_run_where_the_caller_waits(score: Reward) -> None:
    assert traits_of(score).pure
    assert traits_of(score).inline
