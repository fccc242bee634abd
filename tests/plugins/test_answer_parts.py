from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl_rewards.verify import exact, lexer, notation, numeric, parser
from slimrl_rewards.verify.nodes import VALUES, Apply, Number, Unreadable, Value


def value_of(text: str) -> Value:
    value = parser.parse(lexer.tokens(notation.tidy(text), thousands=True, units=frozenset()))
    assert isinstance(value, VALUES)
    return value


@settings(max_examples=100, deadline=5_000)
@given(st.text(max_size=300))
def test_one_spelling_stays_as_it_is_when_asked_for_again(text: str) -> None:
    once = notation.tidy(text)
    assert isinstance(notation.tidy(once), str)
    assert notation.key(once) == notation.key(notation.key(once))


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
        | two.filter(lambda p: p[1][1] != 0).map(
            lambda p: written(rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])
        )
        # squares of squares have thousands of digits
        | children.filter(lambda c: max(abs(c[1].numerator), c[1].denominator) < 10**20).map(
            lambda c: written(f"({c[0]})^2", c[1] ** 2)
        )
        | children.map(lambda c: written(f"\\left|{c[0]}\\right|", abs(c[1])))
        | children.map(lambda c: written(rf"\sqrt{{({c[0]})^{{2}}}}", abs(c[1])))
    )


EXPRESSIONS = st.recursive(ATOMS, combined, max_leaves=8)


@settings(max_examples=300, deadline=5_000)
@given(EXPRESSIONS)
def test_arithmetic_agrees_with_fractions(expression: Written) -> None:
    text, expected = expression
    value = value_of(text)
    assert exact.exact(value) == expected
    mp = numeric.context(50)
    distance = abs(numeric.evaluate(value, {}, mp) - mp.mpf(expected.numerator) / expected.denominator)
    assert distance <= 1e-30 * max(1, abs(expected))


@given(st.integers(0, 10**30), st.integers(2, 30))
def test_a_root_is_found_only_where_it_is_whole(base: int, index: int) -> None:
    def root(value: int) -> Fraction:
        return exact.exact(Apply("root", (Number(Fraction(value)), Number(Fraction(index)))))

    assert root(base**index) == base
    if base > 1:
        with pytest.raises(exact.NotRational):
            root(base**index + 1)


@given(st.integers(0, 99), st.text("0123456789", max_size=4), st.text("0123456789", min_size=1, max_size=5))
def test_a_repeating_decimal_is_the_limit_of_its_digits(whole: int, start: str, period: str) -> None:
    value = lexer.repeating(rf"{whole}.{start}\overline{{{period}}}")
    shown = Fraction(f"{whole}.{start}{period * 20}")
    assert 0 <= value - shown <= Fraction(1, 10 ** (len(start) + 20 * len(period)))


@pytest.mark.parametrize("text", ["4 2", "1.5 2", "(1,2", "1+", "x^", "<3", "{", r"\frac{1}", "9!!", r"\foo", "hello"])
def test_what_is_no_mathematics_is_not_read_as_some(text: str) -> None:
    with pytest.raises(Unreadable):
        value_of(text)
