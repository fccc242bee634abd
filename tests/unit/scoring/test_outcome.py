from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Score
from slimrl.scoring import to_score
from slimrl.scoring.wire import MAX_REPLY_BYTES, decode_reply, encode_reply

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "returned", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), np.array(1.0), Fraction(2, 2)]
)
def test_every_kind_of_number_is_a_score(returned: Any) -> None:
    score = to_score(returned, None)
    assert (score.status, score.value) == ("scored", 1.0)
    assert type(score.value) is float


def test_none_abstains() -> None:
    assert to_score(None, None).status == "abstained"
    assert to_score({"score": None, "why": "unsure"}, "score").status == "abstained"


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (10**400, "too large"),
        ("1", "str '1'"),
        ([1.0], "list"),
        (1j, "complex"),
        (np.array([1.0, 2.0]), "ndarray"),
        (object(), "object"),
        ({"score": "high"}, "str 'high'"),
        ({}, "keys"),
    ],
)
def test_what_is_no_finite_number_is_an_error_and_never_a_zero(returned: Any, said: str) -> None:
    score = to_score(returned, None)
    assert (score.status, score.value) == ("error", None)
    assert said in score.reason


def test_a_reward_key_picks_the_value_and_numbers_become_components() -> None:
    returned = {"score": -1.0, "acc": False, "pred": "x", "odd": math.nan}
    score = to_score(returned, "score")
    assert (score.status, score.value) == ("scored", -1.0)
    assert score.components == {"score": -1.0, "acc": 0.0}
    assert score.reward == {"score": -1.0, "acc": False, "pred": "x", "odd": "nan"}


def test_several_keys_without_a_reward_key_say_which_flag_is_missing() -> None:
    score = to_score({"score": 1.0, "acc": True}, None)
    assert score.status == "error"
    assert "'score', 'acc'" in score.reason
    assert "--reward-key" in score.reason


def test_a_single_key_needs_no_reward_key() -> None:
    assert to_score({"exact": 0.5}, None).value == 0.5


def test_a_reward_key_that_does_not_fit_is_an_error() -> None:
    score = to_score({"acc": 1}, "score")
    assert score.status == "error"
    assert "no 'score' (--reward-key); it has 'acc'" in score.reason


def test_a_reward_key_is_for_mappings_alone_a_number_is_itself() -> None:
    assert to_score(0.5, "score").value == 0.5


def test_of_several_keys_the_first_that_is_there_picks_the_value() -> None:
    assert to_score({"acc": 0.5, "score": 1.0}, "total", "acc", "score").value == 0.5


def test_where_no_value_is_required_a_mapping_without_a_key_is_scored_all_the_same() -> None:
    score = to_score({"score": 1.0, "acc": True}, value_required=False)
    assert (score.status, score.value, score.components) == ("scored", None, {"score": 1.0, "acc": 1.0})
    assert to_score({"score": 1.0}, value_required=False).value == 1.0


def test_a_score_is_taken_as_it_is() -> None:
    given_score = Score.scored(0.5, components={"format": 1}, reason="short")
    score = to_score(given_score, None)
    assert (score.value, score.components, score.reason) == (0.5, {"format": 1.0}, "short")
    assert to_score(Score(status="abstained", reason="no judge"), None).reason == "no judge"


@pytest.mark.parametrize("returned", [Score(status="scored"), Score(status="error", value=1.0)])
def test_a_score_that_contradicts_itself_is_an_error(returned: Score) -> None:
    assert "status" in to_score(returned, None).reason


def test_a_plain_function_that_returns_a_coroutine_is_told_so() -> None:
    async def later() -> float:
        return 1.0

    assert "async def" in to_score(later(), None).reason


def test_a_value_that_contains_itself_is_an_error() -> None:
    returned: dict[str, Any] = {}
    returned["self"] = returned
    assert to_score(returned, "self").status == "error"


@given(json_values, st.none() | st.text(max_size=3))
def test_every_json_value_is_an_outcome_that_survives_the_wire(returned: Any, reward_key: str | None) -> None:
    score = to_score(returned, reward_key)
    assert (score.status == "scored") == (score.value is not None)
    assert score.value is None or math.isfinite(score.value)
    assert score.status == "scored" or score.reason
    json.dumps(score.reward, allow_nan=False)
    assert decode_reply(encode_reply(3, [score, score])) == (3, [score, score])


def test_an_answer_too_large_to_carry_is_an_error() -> None:
    score = to_score({"score": 1.0, "trace": ["x" * 1000] * 2000}, "score")
    _, (small, carried) = decode_reply(encode_reply(3, [Score.scored(1.0), score]))
    assert small.value == 1.0
    assert carried.status == "error"
    assert f"{MAX_REPLY_BYTES // 2:,}" in carried.reason
