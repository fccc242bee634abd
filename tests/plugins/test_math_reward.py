from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import Reward, Sample, boxed
from slimrl.registry import Options
from slimrl_rewards import answer_text, mathd
from slimrl_rewards import math as math_reward


@pytest.fixture(scope="module")
def score() -> Reward:
    return math_reward.make(Options())


def sample(answer: str, label: Any) -> Sample:
    return Sample(0, 0, 0, "", [], label=label, response=f"So the answer is $\\boxed{{{answer}}}$.")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("42", "42"),
        ("42", 42),
        ("0", 0),
        ("42.0", "42"),
        ("1,234,567", "1234567"),
        ("x = 5", "5"),
        (r"\frac12", r"\dfrac{1}{2}"),
        ("1/2", r"\frac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        (".5", "0.5"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"),
        (r"90^\circ", "90"),
        (r"25\%", "25"),
        (r"5\text{ cm}", "5"),
        (r"\text{Monday}", "monday"),
        ("2 3/4", r"2\frac{3}{4}"),
        ("(x-1)(x+1)", "x^2-1"),
        ("7-2x+3x^2", "3x^2-2x+7"),
        (r"\left(1,\,2\right)", "(1,2)"),
        ("(1.0,2.0)", "(1,2)"),
        ("pi", r"\pi"),
        ("42", r"\boxed{42}"),
    ],
)
def test_equal_answers_are_right(score: Reward, answer: str, label: Any) -> None:
    assert score(sample(answer, label)) == 1


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("43", "42"),
        ("2/4", r"\frac{1}{2}"),
        ("10^2", "100"),
        ("[1,2]", "(1,2)"),
        ("(2,1)", "(1,2)"),
        ("1,2", "1,2,3"),
        ("2x+3", "2y+3"),
        ("x>3", "x<3"),
        ("3.14159", r"\pi"),
        ("3+2x", "4+2x"),
        ("", "42"),
        ("42", None),
        ("42", ""),
        ("False", False),
    ],
)
def test_unequal_answers_are_wrong(score: Reward, answer: str, label: Any) -> None:
    assert score(sample(answer, label)) == 0


@pytest.mark.parametrize(
    "response",
    ["42", r"\boxed 42", r"\boxed {42}", r"\fbox{42}", r"\boxed{42", r"\boxed{42} or \boxed{43", "", "\\boxed"],
)
def test_an_answer_must_be_in_the_last_box(score: Reward, response: str) -> None:
    assert score(Sample(0, 0, 0, "", [], label="42", response=response)) == 0


def test_the_last_of_several_boxes_counts(score: Reward) -> None:
    right, wrong = r"\boxed{1} no, \boxed{42}", r"\boxed{42} no, \boxed{1}"
    assert score(Sample(0, 0, 0, "", [], label="42", response=right)) == 1
    assert score(Sample(0, 0, 0, "", [], label="42", response=wrong)) == 0


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("12345678901234567891", "12345678901234567890", 0),
        ("12345678901234567890", "12345678901234567890.0", 1),
        ("1,222,333,444", "1222333444", 1),
        ("0", 0, 1),
    ],
)
def test_where_slime_is_wrong_ours_differs(score: Reward, answer: str, label: Any, right: int) -> None:
    assert score(sample(answer, label)) == right


HOSTILE = {
    "power tower": "9**9**9**9",
    "nested powers": "(((((((((9^9)^9)^9)^9)^9)^9)^9)^9)^9)",
    "a power hidden in a quotient": "9**(10**9*x/x)",
    "a power that cancels to a large one": "9**((10**30+10**9)-10**30)",
    "a power of an imaginary square": "9**(10**9*((-1)**(1/2))**2)",
    "a huge negative power": "2**(-9999999999)+x",
    "a huge factorial": "9999999999!",
    "factorials of factorials": "((9!)!)!",
    "double factorials": "9!!!!!!!!!!",
    "expansion": "((x+1)**999-(x-1)**999)/x",
    "nested sums of powers": "((((x+y)**9)**9)**9)**9",
    "ten thousand digits": "7" * 10_000,
    "a hundred thousand digits": "7" * 100_000,
    "a huge decimal exponent": "1e999999999",
    "thousands of groups": "1" + ",111" * 100_000,
    "nested brackets": "(" * 5_000 + "x" + ")" * 5_000,
    "nested fractions": "\\frac{" * 1_000 + "1" + "}{2}" * 1_000,
    "nested roots": "sqrt(" * 200 + "x" + ")" * 200,
    "many terms": "x+" * 20_000 + "x",
    "many signs": "-" * 100_000 + "1",
    "many inversions": "~" * 3_000 + "1",
    "a megabyte of blanks": " " * 1_000_000,
    "a megabyte of backslashes": "\\" * 1_000_000,
    "code": '__import__("os").system("false")',
    "attributes": "x.__class__.__mro__",
    "string multiplication": '"a"*10**9',
    "a file": r"\input{/etc/passwd}",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("label", ["x+1", r"\frac{1}{3}"])
def test_a_hostile_answer_is_wrong_quickly(score: Reward, answer: str, label: str) -> None:
    started = time.process_time()
    assert score(sample(answer, label)) == 0
    assert score(sample(label, answer)) == 0
    assert time.process_time() - started < 1.0


EXPRESSION_TEXT = st.text(alphabet="0123456789xy+-*/^!().,= \\{}%$_eπ²", max_size=30)
ANSWER_TEXT = st.lists(
    EXPRESSION_TEXT
    | st.sampled_from(["\\frac", "\\sqrt", "\\text{ ", "\\boxed{", "\\left(", "^\\circ", "million", "cm"]),
    max_size=6,
).map("".join)


@settings(max_examples=300, deadline=3_000)
@given(ANSWER_TEXT, ANSWER_TEXT)
def test_no_text_makes_it_raise(score: Reward, answer: str, label: str) -> None:
    assert score(sample(answer, label)) in (0, 1)


@settings(max_examples=200, deadline=3_000)
@given(ANSWER_TEXT)
def test_an_answer_equals_itself_wherever_it_can_be_boxed(score: Reward, answer: str) -> None:
    written = sample(answer, answer)
    if answer and "\\boxed" not in answer and boxed.last_boxed(written.response) == answer:
        assert score(written) == 1


def polynomial(coefficients: list[int], order: list[int]) -> str:
    return "+".join(f"({coefficients[i]})x^{i}" for i in order)


@settings(max_examples=50, deadline=3_000)
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6), st.data())
def test_a_polynomial_equals_its_terms_in_any_order_and_no_other(
    score: Reward, coefficients: list[int], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(coefficients))))
    changed = data.draw(st.integers(0, len(coefficients) - 1))
    other = [value + (i == changed) for i, value in enumerate(coefficients)]
    label = polynomial(coefficients, list(range(len(coefficients))))
    assert score(sample(polynomial(coefficients, order), label)) == 1
    assert score(sample(polynomial(other, order), label)) == 0


@given(st.text(alphabet="ab{}\\boxed ", max_size=40))
def test_the_last_box_agrees_with_counting_braces_one_by_one(text: str) -> None:
    start = text.rfind("\\boxed")
    expected = None
    if start >= 0 and text[start:].startswith("\\boxed{"):
        depth = 0
        for i, character in enumerate(text[start:]):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if character == "}" and depth == 0:
                expected = text[start:][len("\\boxed{") : i]
                break
    assert boxed.last_boxed(text) == expected


@given(st.integers(-(10**30), 10**30))
def test_an_integer_is_read_exactly_with_and_without_thousands_commas(number: int) -> None:
    assert answer_text.plain(str(number)) == str(number)
    assert answer_text.plain(f"{number:,}") == str(number)


@given(st.text(alphabet="0123456789./=ab{}\\sqrtfc ", max_size=30))
def test_the_normal_form_never_raises(text: str) -> None:
    assert isinstance(mathd.normalise(text), str)
