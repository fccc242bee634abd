from __future__ import annotations

import json
import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import Reward, RewardError, Sample
from slimrl.registry import Options
from slimrl.traits import traits_of
from slimrl_rewards import math_verify_reward
from slimrl_rewards.verify import units
from slimrl_rewards.verify.extraction import answer_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "rewards"
HARD = FIXTURES / "hard.jsonl"
PAIRS = FIXTURES / "math_verify_pairs.txt"


@pytest.fixture(scope="module")
def score() -> Reward:
    return math_verify_reward.make(Options())


def sample(answer: str, label: Any) -> Sample:
    return Sample(0, 0, 0, "", [], label=label, response=f"Therefore, the answer is $\\boxed{{{answer}}}$.")


def pairs(sign: str) -> list[tuple[str, str]]:
    """Label and answer of the lines that begin with the sign: `=` for right, `!` for wrong."""
    lines = [line.split(" ", 1) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    return [(label, answer) for mark, rest in lines if mark == sign for label, answer in [rest.split(" || ")]]


@pytest.mark.parametrize(("label", "answer"), pairs("="))
def test_what_means_the_same_is_right(score: Reward, label: str, answer: str) -> None:
    assert score(sample(answer, label)) == 1.0


@pytest.mark.parametrize(("label", "answer"), pairs("!"))
def test_what_means_something_else_is_wrong(score: Reward, label: str, answer: str) -> None:
    assert score(sample(answer, label)) == 0.0


@pytest.mark.parametrize("text", sorted({label for sign in "=!" for label, _ in pairs(sign)}))
def test_every_label_equals_itself_and_itself_in_a_box(score: Reward, text: str) -> None:
    assert score(sample(text, text)) == score(sample(text, f"\\boxed{{{text}}}")) == 1.0


def test_the_hard_examples_are_judged_by_their_truth(score: Reward) -> None:
    examples = [json.loads(line) for line in HARD.read_text(encoding="utf-8").splitlines()]
    verdicts = [score(Sample(0, 0, 0, "", [], label=e["label"], response=e["response"])) for e in examples]
    wrong = [e["id"] for e, verdict in zip(examples, verdicts, strict=True) if verdict != float(e["truth"])]
    false_positives = [e["id"] for e, verdict in zip(examples, verdicts, strict=True) if verdict and not e["truth"]]
    assert len(wrong) <= 0.03 * len(examples)
    assert false_positives == []


def test_its_verdicts_may_be_remembered_and_need_a_process(score: Reward) -> None:
    assert traits_of(score).pure
    assert not traits_of(score).inline


@pytest.mark.parametrize(
    "label", [None, True, [], {"answer": 1}, math.nan, math.inf, "", "  ", "$$", r"\frac{1}{", "{"]
)
def test_a_label_that_says_nothing_is_an_error_that_names_it(score: Reward, label: Any) -> None:
    with pytest.raises(RewardError, match="label"):
        score(sample("42", label))


@pytest.mark.parametrize(("label", "answer"), [(42, "42"), (0, "0"), (2.5, r"\frac{5}{2}"), (-7, "-7")])
def test_a_label_may_be_a_number(score: Reward, label: float, answer: str) -> None:
    assert score(sample(answer, label)) == 1.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"\boxed{1}, no: \boxed{42}", "42"),
        (r"first \boxed{42}, then \boxed{43", None),
        ("The final answer is 42.", "42"),
        ("So the answer is $\\frac{1}{2}$.", r"\frac{1}{2}"),
        (r"Answer: \(x = 5\)", "x = 5"),
        ("We get 3 + 4 = 7, hence $7$.", "7"),
        ("It is 12, and 12 + 30 = 42", "42"),
        ("Since $x = 3$, we have $x^2 = 9$", "x^2 = 9"),
        ("The answer is $\\frac{3}{4}$, since $3 \\cdot 1 = 3$.", r"\frac{3}{4}"),
        ("Answer: 1,000", "1,000"),
        ("The answer is 3/4", "3/4"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_box_or_else_the_last_mathematics(response: str, expected: str | None) -> None:
    assert answer_of(response) == expected


def test_a_reply_without_a_box_is_judged_by_its_last_mathematics(score: Reward) -> None:
    right = Sample(0, 0, 0, "", [], label="42", response="The final answer is 42.")
    wrong = Sample(0, 0, 0, "", [], label="42", response="42 is what I thought, but the answer is 43")
    assert score(right) == 1.0
    assert score(wrong) == 0.0


PIECES = st.sampled_from(
    [
        r"x",
        r"y",
        r"2",
        r"3",
        r"10",
        r"0",
        r"-1",
        r"0.5",
        r"\pi",
        r"e",
        r"i",
        r"n",
        r"(",
        r")",
        r"[",
        r"]",
        r"{",
        r"}",
        r"|",
        r",",
        r";",
        r"=",
        r"<",
        r"\le",
        r"\in",
        r"\cup",
        r"\setminus",
        r"\mathbb{R}",
        r"\infty",
        r"\frac{1}{2}",
        r"\frac",
        r"\sqrt{2}",
        r"\sqrt",
        r"\sin",
        r"\log_",
        r"^",
        r"_",
        r"!",
        r"+",
        r"-",
        r"\cdot",
        r"/",
        r"\pm",
        r":",
        r"%",
        r"\%",
        r"^\circ",
        r"\text{cm}",
        r"\text{or}",
        r"\{",
        r"\}",
        r"\begin{pmatrix}",
        r"&",
        r"\\",
        r"\$",
        r"\end{pmatrix}",
        r"or",
        r"million",
        r"4:30",
        r"17_8",
        r"0.\overline{3}",
        r"1,000",
        r"\left(",
        r"\right)",
        r"B",
        r"hello",
        r"\binom",
        r"\lfloor",
        r"\rfloor",
        r"'",
        r".",
        r"...",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=12).map(" ".join) | st.lists(PIECES, max_size=20).map("".join)


@settings(max_examples=400, deadline=5_000)
@given(TEXTS, TEXTS)
def test_whatever_is_written_there_is_a_verdict_or_an_error_that_names_the_label(
    score: Reward, answer: str, label: str
) -> None:
    try:
        assert score(sample(answer, label)) in (0.0, 1.0)
    except RewardError as error:
        assert "label" in str(error)


@settings(max_examples=200, deadline=5_000)
@given(TEXTS, TEXTS)
def test_a_reply_without_a_box_gets_a_verdict_in_bounded_time(score: Reward, start: str, end: str) -> None:
    started = time.process_time()
    assert score(Sample(0, 0, 0, "", [], label="1", response=start * 200 + end)) in (0.0, 1.0)
    assert time.process_time() - started < 5.0


# An expression as text, and its value by Python's own fractions.
def written(text: str, value: Fraction) -> tuple[str, Fraction]:
    return text, value


ATOMS = st.integers(-20, 20).map(lambda n: written(f"({n})", Fraction(n))) | st.tuples(
    st.integers(0, 99), st.integers(0, 99)
).map(lambda p: written(f"{p[0]}.{p[1]:02}", Fraction(p[0] * 100 + p[1], 100)))
Written = tuple[str, Fraction]


def combined(children: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    two = st.tuples(children, children)
    return (
        two.map(lambda p: written(f"({p[0][0]}+{p[1][0]})", p[0][1] + p[1][1]))
        | two.map(lambda p: written(f"({p[0][0]}-{p[1][0]})", p[0][1] - p[1][1]))
        | two.map(lambda p: written(rf"{p[0][0]} \cdot {p[1][0]}", p[0][1] * p[1][1]))
        # no filter: hypothesis would print the whole strategy, each time larger, and warn of that
        | two.map(lambda p: written(rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1]) if p[1][1] else p[0])
        | children.map(lambda c: written(f"({c[0]})^2", c[1] ** 2))
        | children.map(lambda c: written(f"\\left|{c[0]}\\right|", abs(c[1])))
        | children.map(lambda c: written(rf"\sqrt{{({c[0]})^{{2}}}}", abs(c[1])))
    )


EXPRESSIONS = st.recursive(ATOMS, combined, max_leaves=8)


@settings(max_examples=150, deadline=5_000)
@given(EXPRESSIONS, st.integers(-5, 5), st.integers(1, 5))
def test_an_expression_equals_its_value_and_no_other(score: Reward, expression: Written, by: int, over: int) -> None:
    text, value = expression
    fraction = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    changed = value + Fraction(by, over)
    assert score(sample(text, fraction)) == score(sample(fraction, text)) == 1.0
    assert score(sample(rf"\frac{{{changed.numerator}}}{{{changed.denominator}}}", text)) == float(by == 0)


@settings(max_examples=100, deadline=5_000)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=6), st.data())
def test_sets_are_unordered_and_tuples_are_not(score: Reward, numbers: list[int], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(numbers))
    one, other = (", ".join(map(str, items)) for items in (numbers, shuffled))
    assert score(sample(f"\\{{{other}\\}}", f"\\{{{one}\\}}")) == score(sample(other, one)) == 1.0
    if len(numbers) > 1:
        assert score(sample(f"({other})", f"({one})")) == float(shuffled == numbers)
    assert score(sample(f"{other}, 99", one)) == 0.0


@settings(max_examples=100, deadline=5_000)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=2, unique=True).map(sorted), st.data())
def test_an_interval_is_an_inequality(score: Reward, ends: list[int], data: st.DataObject) -> None:
    has_low, has_high, other_low, other_high = (data.draw(st.booleans()) for _ in range(4))
    interval = f"{'[' if has_low else '('}{ends[0]}, {ends[1]}{']' if has_high else ')'}"
    low, high = (r"\le" if is_in else "<" for is_in in (other_low, other_high))
    chain = f"{ends[0]} {low} x {high} {ends[1]}"
    assert score(sample(chain, interval)) == float((has_low, has_high) == (other_low, other_high))


@given(st.integers(2, 30), st.integers(1, 12))
def test_a_number_of_one_unit_is_that_of_a_smaller_one(score: Reward, number: int, power: int) -> None:
    assert score(sample(rf"{number * 100}\text{{ cm}}", rf"{number}\text{{ m}}")) == 1.0
    assert score(sample(rf"{number}\text{{ cm}}", rf"{number}\text{{ m}}")) == 0.0
    assert units.dimension(f"m^{power}").powers == (("L", min(power, 9)),)
