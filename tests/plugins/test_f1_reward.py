from __future__ import annotations

import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Reward, RewardError, Sample
from slimrl.registry import Options
from slimrl.traits import traits_of
from slimrl_rewards import f1


@pytest.fixture(scope="module")
def score() -> Reward:
    return f1.make(Options())


def sample(response: str, label: Any) -> Sample:
    return Sample(0, 0, 0, "", [], label=label, response=response)


@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [
        ("Barack Obama", "Barack Obama", 1.0),
        ("the Barack, Obama!", "barack obama", 1.0),
        ("Obama", "Barack Obama", 2 / 3),
        ("Barack H. Obama", "Barack Obama", 0.8),
        ("to to to", "to be or not to be", 4 / 9),
        ("Yes.", "yes", 1.0),
        ("yes it is", "yes", 0.0),
        ("no", "no answer", 0.0),
        ("No-Answer", "noanswer", 1.0),
        ("an Apple", "the apple", 1.0),
        ("the", "a", 0.0),
        ("", "", 0.0),
        ("\\boxed{cat}", "cat", 0.0),
        ("<think>cat</think> cat", "cat", 0.0 + 2 / 3),
        ("東京 都", "東京", 2 / 3),
    ],
)
def test_the_score_is_the_share_of_common_words(score: Reward, response: str, label: str, expected: float) -> None:
    value = score(sample(response, label))
    assert value == pytest.approx(expected, abs=1e-12)
    assert type(value) is float


@pytest.mark.parametrize("label", [None, ["cat"], {"answer": "cat"}, 5, True])
def test_a_label_that_is_no_text_is_an_error_that_names_it(score: Reward, label: Any) -> None:
    with pytest.raises(RewardError, match="label must be text, not") as caught:
        score(sample("cat", label))
    assert str(label)[:5] in str(caught.value)


def slow_f1(response: str, label: str) -> float:
    """Words normalised one character at a time, and common words crossed out one by one."""

    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    given_words, true_words = words(response), words(label)
    if any(" ".join(side) in ("yes", "no", "noanswer") for side in (given_words, true_words)):
        return float(given_words == true_words)
    left, num_common = list(true_words), 0
    for word in given_words:
        if word in left:
            left.remove(word)
            num_common += 1
    total = len(given_words) + len(true_words)
    return 2 * num_common / total if total else 0.0


WORD = st.sampled_from(
    ["a", "an", "the", "yes", "no", "noanswer", "cat", "Cat", "dog", "dog.", "5", "-", ",", "it's", "\n", ""]
)
TEXT = st.lists(WORD, max_size=8).map(" ".join)


@given(TEXT, TEXT)
def test_the_score_agrees_with_crossing_out_words(response: str, label: str) -> None:
    assert f1.make(Options())(sample(response, label)) == pytest.approx(slow_f1(response, label), abs=1e-12)


@given(st.text(max_size=40) | TEXT, st.text(max_size=40) | TEXT)
def test_the_score_is_symmetric_and_between_zero_and_one(one: str, other: str) -> None:
    score = f1.make(Options())
    value = score(sample(one, other))
    assert value == score(sample(other, one))
    assert isinstance(value, float)
    assert 0.0 <= value <= 1.0


@given(st.text(max_size=40))
def test_a_text_equals_itself_if_it_has_a_word(text: str) -> None:
    assert f1.make(Options())(sample(text, text)) == float(bool(f1.words(text)))


@pytest.mark.parametrize("piece", [" ", "a ", "the ", "an", "\\", "'", "word ", "{", "1"])
def test_a_megabyte_is_scored_in_linear_time(score: Reward, piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    score(sample(text, "cat"))
    score(sample("cat", text))
    assert time.process_time() - started < 5.0


def test_it_may_be_remembered_and_run_where_the_caller_waits(score: Reward) -> None:
    assert traits_of(score).pure
    assert traits_of(score).inline
