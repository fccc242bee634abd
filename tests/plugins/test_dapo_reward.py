from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import Reward, RewardError, Sample
from slimrl.registry import Options
from slimrl.traits import traits_of
from slimrl_rewards import dapo

RIGHT, WRONG = 1.0, -1.0


@pytest.fixture(scope="module")
def score() -> Reward:
    return dapo.make(Options([dapo.DapoOptions()]))


@pytest.fixture(scope="module")
def score_strictly() -> Reward:
    return dapo.make(Options([dapo.DapoOptions(dapo_strict_box_verify=True)]))


def sample(response: str, label: Any) -> Sample:
    return Sample(0, 0, 0, "", [], label=label, response=response)


def answered(answer: str, label: Any) -> Sample:
    return sample(f"Let us see.\nAnswer: {answer}", label)


@pytest.mark.parametrize(
    ("answer", "pred"),
    [
        ("42", "42"),
        ("$42$", "42"),
        ("\\$42", "42"),
        ("x=3=42", "42"),
        ("\\boxed{42}", "42"),
        ("$\\boxed{42}$", "42"),
        ("\\text{42}", "42"),
        ("\\textbf{42}", "42"),
        ("\\mbox{42}", "42"),
        ("\\overline{42}", "42"),
        ("42 dollars", "42"),
        ("42 square cm", "42"),
        ("42\\text{ meters}", "42"),
        ("42^{\\circ}", "42"),
        ("a 42", "42"),
        ('"42"', "42"),
        ("4{,}2", "42"),
        ("4,2", "42"),
        ("42<|im_end|>", "42"),
        ("42\r", "42"),
        ("42\nDone.", "42"),
        ("1\nanswer : 42", "42"),
        ("\n\n42", "42"),
    ],
)
def test_an_answer_is_compared_without_what_is_around_it(score: Reward, answer: str, pred: str) -> None:
    value = score(answered(answer, "42"))
    assert value == {"score": RIGHT, "acc": True, "pred": pred}
    assert [type(part) for part in value.values()] == [float, bool, str]


@pytest.mark.parametrize(
    ("answer", "pred"),
    [
        ("42.", "42."),
        ("42.0", "42.0"),
        ("042", "042"),
        ("+42", "+42"),
        ("(42)", "(42)"),
        ("42 ft", "42ft"),
        ("84/2", "84/2"),
        ("\\frac{84}2", "\\frac{84}2"),
        ("\\frac12", "\\frac{1}{2}"),
        ("\\sqrt2", "\\sqrt{2}"),
        ("42\\%", "42\\%"),
        ("$4$ or $42$", "4"),
        ("1\nAnswer: 2", "2"),
    ],
)
def test_any_other_spelling_is_wrong(score: Reward, answer: str, pred: str) -> None:
    assert score(answered(answer, "42")) == {"score": WRONG, "acc": False, "pred": pred}


@pytest.mark.parametrize(
    "response",
    [
        "",
        "42",
        "The answer is 42",
        "The answer is: 42",
        "**Answer**: 42",
        "Answers: 42",
        "Answer:",
        "Answer\N{FULLWIDTH COLON}42",
    ],
)
def test_a_reply_without_the_phrase_is_wrong(score: Reward, response: str) -> None:
    assert score(sample(response, "42")) == {"score": WRONG, "acc": False, "pred": "[INVALID]"}


def test_only_the_last_300_characters_are_read(score: Reward) -> None:
    answer = "Answer: 42\n"
    assert score(sample(answer + "z" * (300 - len(answer)), "42"))["acc"]
    assert not score(sample(answer + "z" * (301 - len(answer)), "42"))["acc"]


@pytest.mark.parametrize(
    ("label", "truth"),
    [
        (42, "42"),
        (42.0, "42"),
        ("42.9", "42"),
        ("0.5", "0"),
        ("-0.5", "0"),
        ("\\boxed{42}", "42"),
        ("1,234", "1234"),
        ("5 ways", "5"),
        ("x=y=5", "5"),
        ("1e3", "1000"),
        ("\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}", "12"),
        ("9007199254740993", "9007199254740993"),
        (12345678901234567890, "12345678901234567890"),
        ("1e23", "100000000000000000000000"),
    ],
)
def test_the_label_is_an_integer(score: Reward, label: Any, truth: str) -> None:
    assert dapo.truth_of(str(label)) == truth
    assert score(answered(truth, label))["acc"]


@pytest.mark.parametrize(
    "label", ["abc", "", None, True, ["42"], {"a": 1}, "x^2", "1/2", "nan", "inf", "-1e309", "1" * 400, " " * 2_000]
)
def test_a_label_that_is_no_number_is_an_error_that_says_so(score: Reward, label: Any) -> None:
    with pytest.raises(RewardError, match="dapo: the label must be a"):
        score(answered("42", label))


@pytest.mark.parametrize(
    ("response", "label", "pred"),
    [
        ("\\boxed{42}", "42", "42"),
        ("\\boxed{1} \\boxed{42}", "42", "42"),
        ("\\boxed{42}", 42, "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\boxed{abc}" + "z" * 89, "abc", "abc"),
    ],
)
def test_strictly_the_last_box_is_the_label(score_strictly: Reward, response: str, label: Any, pred: str) -> None:
    assert score_strictly(sample(response, label)) == {"score": RIGHT, "acc": True, "pred": pred}


@pytest.mark.parametrize(
    ("response", "pred"),
    [
        ("\\boxed{ 42 }", " 42 "),
        ("\\boxed{\\text{42}}", "\\text{42}"),
        ("\\boxed{42} \\boxed{1}", "1"),
        ("\\boxed{42", None),
        ("\\boxed 42", None),
        ("\\fbox{42}", None),
        ("Answer: 42", None),
        ("\\boxed{42}" + "z" * 91, None),
    ],
)
def test_strictly_nothing_else_is(score_strictly: Reward, response: str, pred: str | None) -> None:
    assert score_strictly(sample(response, "42")) == {"score": WRONG, "acc": False, "pred": pred}


def test_it_names_the_component_that_is_trained_on(score: Reward, score_strictly: Reward) -> None:
    for reward in (score, score_strictly):
        assert traits_of(reward).key == "score"
        assert traits_of(reward).pure
        assert traits_of(reward).inline


PIECE = st.sampled_from(
    [
        *(
            "Answer:",
            "answer :",
            "=",
            "$",
            "\\$",
            "\\text{",
            "\\textbf{",
            "\\overline{",
            "\\boxed{",
            "}",
            "frac",
            "sqrt",
        ),
        *("a ", "an ", " ", "cm", ",", "1", "23", "\n", "\\text{and}", "^\\circ", "{,}", "\\", ".", "-"),
    ]
)
TEXT = st.lists(PIECE, max_size=12).map("".join) | st.text(max_size=20)


@given(TEXT)
def test_the_first_dollars_and_the_wraps_agree_with_the_published_expressions(text: str) -> None:
    slow = text.rpartition("=")[2]
    for old, new in dapo.REPLACEMENTS:
        slow = new.join(slow.split(old))
    for noise in dapo.NOISE:
        slow = "".join(slow.split(noise))
    slow = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", "$\\3$", slow)
    for command in ("text", "textbf", "overline"):
        slow = re.sub(rf"(\\{command}\{{)(.*?)(\}})", "\\2", slow)
    slow = re.sub(r"(\\boxed\{)(.*)(\})", "\\2", slow)
    slow = re.sub(r"(frac)([^{])(.)", "frac{\\2}{\\3}", slow)
    slow = re.sub(r"(sqrt)([^{])", "sqrt{\\2}", slow).replace("$", "")
    slow = (slow.replace(",", "") if slow.replace(",", "").isdigit() else slow).strip()
    if "\n" not in text:  # an answer is one line
        assert dapo.normalise(text) == slow


@given(TEXT, TEXT | st.none() | st.integers() | st.floats() | st.booleans() | st.lists(st.integers(), max_size=2))
def test_it_raises_nothing_but_reward_errors(score: Reward, response: str, label: Any) -> None:
    try:
        value = score(sample(response, label))
    except RewardError:
        return
    assert value["score"] == (RIGHT if value["acc"] else WRONG)


@given(st.integers(-(10**30), 10**30))
def test_every_integer_is_right_against_itself_and_wrong_against_the_next(number: int) -> None:
    score = dapo.make(Options([dapo.DapoOptions()]))
    assert score(answered(str(number), number))["acc"]
    assert score(answered(f"${number}$", str(number)))["acc"]
    assert not score(answered(str(number + 1), number))["acc"]


@settings(deadline=None)
@given(st.sampled_from([" ", "answer", "answer:", "Answer: ", "\\text{", "$", "\\", "9", "{", "1,", "an "]))
def test_a_megabyte_is_scored_at_once(piece: str) -> None:
    score = dapo.make(Options([dapo.DapoOptions()]))
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    for response in (text, "Answer:" + text[:293], f"{text}\nAnswer: 1"):
        score(sample(response, "42"))
    with pytest.raises(RewardError):
        score(sample("Answer: 1", text))
    assert time.process_time() - started < 1.0
