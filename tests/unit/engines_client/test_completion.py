"""What is read of an engine's answer, and the weight versions of tokens, from spans."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.engines.completion import UNKNOWN_VERSION, Span, parse_completion, parse_log_probs, version_per_token
from slimrl.errors import EngineError


def body_of(triples: list[list[Any]], **meta: Any) -> bytes:
    meta = {"id": "x", "finish_reason": {"type": "stop"}, "output_token_logprobs": triples, **meta}
    return json.dumps({"text": "a text", "output_ids": [t[1] for t in triples], "meta_info": meta}).encode()


@given(st.lists(st.tuples(st.floats(-1e9, 0.0), st.integers(0, 2**31)), max_size=20))
def test_tokens_and_log_probs_are_those_of_the_answer(pairs: list[tuple[float, int]]) -> None:
    completion = parse_completion(body_of([[log_prob, token, None] for log_prob, token in pairs]), 1.5)
    assert completion.log_probs == [log_prob for log_prob, _ in pairs]
    assert completion.tokens == [token for _, token in pairs]
    assert (completion.text, completion.seconds) == ("a text", 1.5)


def test_an_aborted_request_without_tokens_is_an_empty_completion() -> None:
    finish = {"type": "abort", "message": "Aborted", "status_code": 499, "err_type": None}
    completion = parse_completion(body_of([], output_token_logprobs=None, finish_reason=finish), 0.0)
    assert (completion.tokens, completion.finish_reason, completion.finish_message) == ([], "abort", "Aborted")


def test_a_log_prob_may_be_a_whole_number_and_its_text_may_come_along() -> None:
    completion = parse_completion(body_of([[0, 7, "a"], [-1, 8, "b"]]), 0.0)
    assert completion.log_probs == [0.0, -1.0]
    assert all(isinstance(log_prob, float) for log_prob in completion.log_probs)


@pytest.mark.parametrize("log_prob", ["null", "NaN", "-Infinity", "-1e999", '"-0.5"'])
def test_a_log_prob_that_is_not_a_finite_number_is_an_error(log_prob: str) -> None:
    body = body_of([[-0.125, 7, None]]).replace(b"-0.125", log_prob.encode())
    with pytest.raises(EngineError, match="the engine's answer is not"):
        parse_completion(body, 0.0)


def test_a_long_answer_does_not_set_off_the_garbage_collector() -> None:
    body = body_of([[-0.5 - token, token, None] for token in range(8000)])
    generations: list[int] = []
    gc.collect()
    gc.callbacks.append(lambda phase, about: generations.append(about["generation"]) if phase == "start" else None)
    try:
        completion = parse_completion(body, 0.0)
    finally:
        gc.callbacks.pop()
    assert len(completion.tokens) == 8000
    assert generations == []


def slow_versions(version: str, spans: list[Span], num_tokens: int) -> list[int]:
    found = []
    for index in range(num_tokens):
        own = next((span.version for span in spans if span.start <= index < span.end), version)
        found.append(int(str(own)))
    return found


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=4), st.integers(0, 3))
def test_spans_give_each_token_its_version(pieces: list[tuple[int, int]], missing: int) -> None:
    spans, start = [], 0
    for length, version in pieces:
        spans.append(Span(str(version), start, start + length))
        start += length
    num_tokens = max(start - missing, 0)  # tokens after a stop string may be cut from the reply
    versions = version_per_token("11", spans, num_tokens)
    assert versions == slow_versions("11", spans, num_tokens)


def test_a_server_without_spans_has_one_version_for_all() -> None:
    assert version_per_token("3", [], 2) == [3, 3]


def test_a_version_that_is_not_an_integer_is_unknown() -> None:
    assert version_per_token("default", [], 1) == [UNKNOWN_VERSION]
    assert version_per_token(None, [], 1) == [UNKNOWN_VERSION]


def scored_body(pairs: list[list[Any]]) -> bytes:
    return body_of([], input_token_logprobs=pairs, finish_reason={"type": "length"})


def test_given_tokens_have_log_probs_but_for_the_first() -> None:
    assert parse_log_probs(scored_body([[None, 4, None], [-1.5, 7, None], [-2, 8, None]]), [4, 7, 8]) == [-1.5, -2.0]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([[None, 4, None], [-1.5, 9, None]], "log-probs of 2 tokens where 2 were given"),
        ([[None, 4, None]], "log-probs of 1 tokens where 2 were given"),
        ([[None, 4, None], [None, 7, None]], "not a finite number"),
    ],
)
def test_an_answer_about_other_tokens_is_an_error(pairs: list[list[Any]], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        parse_log_probs(scored_body(pairs), [4, 7])
