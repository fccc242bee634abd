from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Completion, SamplingParams
from slimrl.errors import EngineError
from slimrl.testing import FakeEngine
from slimrl.testing.fake_engine import END

SAMPLING = SamplingParams(max_new_tokens=20)
PROMPT = list(b"What is 3 + 4?")


def ask(engine: FakeEngine, sampling: SamplingParams = SAMPLING, prompt: list[int] = PROMPT) -> Completion:
    return asyncio.run(engine.generate(prompt, sampling))


def test_a_scripted_answer_ends_with_the_end_token() -> None:
    completion = ask(FakeEngine("It is 7."))
    assert completion.text == "It is 7."
    assert completion.tokens == [*b"It is 7.", END]
    assert completion.finish_reason == "stop"
    assert len(completion.tokens) == len(completion.log_probs) == len(completion.weight_versions)


def test_an_answer_that_is_too_long_is_cut() -> None:
    completion = ask(FakeEngine("It is 7, and that is all there is to say."))
    assert (completion.text, completion.finish_reason) == ("It is 7, and that is", "length")


def test_a_stop_string_ends_it_and_is_not_shown() -> None:
    completion = ask(FakeEngine("It is 7. Next: 8"), replace(SAMPLING, stop=("Next", ". ")))
    assert (completion.text, completion.finish_reason) == ("It is 7", "stop")
    assert completion.tokens == list(b"It is 7. ")


def test_a_list_has_one_answer_a_request_and_may_hold_errors_and_completions() -> None:
    engine = FakeEngine(["one", EngineError("gone"), FakeEngine().completion(PROMPT, "tw", SAMPLING, "abort")])
    assert ask(engine).text == "one"
    with pytest.raises(EngineError, match="gone"):
        ask(engine)
    assert ask(engine).finish_reason == "abort"
    with pytest.raises(EngineError, match="has 3 answers"):
        ask(engine)
    assert [request.text for request in engine.requests] == ["What is 3 + 4?"] * 4


def test_a_function_answers_by_the_request() -> None:
    engine = FakeEngine(lambda ids, sampling: str(len(ids)))
    assert ask(engine).text == "14"


@given(st.integers(0, 5), st.integers(0, 5), st.sampled_from([0.0, 0.7, 1.0]))
def test_the_same_request_gets_the_same_answer_with_the_log_probs_of_its_tokens(
    seed: int, sampling_seed: int, temperature: float
) -> None:
    sampling = SamplingParams(max_new_tokens=12, temperature=temperature, sampling_seed=sampling_seed)
    engine = FakeEngine(seed=seed)
    completion = ask(engine, sampling)
    assert ask(FakeEngine(seed=seed), sampling) == completion
    expected = [
        engine.log_prob(PROMPT + completion.tokens[:i], t, temperature) for i, t in enumerate(completion.tokens)
    ]
    assert completion.log_probs == expected
    assert (completion.finish_reason == "stop") == (completion.tokens[-1] == END)


def test_the_chances_of_all_tokens_add_up_to_one() -> None:
    engine = FakeEngine(seed=1)
    for temperature in (0.5, 1.0, 2.0):
        assert math.isclose(sum(math.exp(engine.log_prob(PROMPT, t, temperature)) for t in range(256)), 1.0)


def test_seeded_answers_differ_by_seed() -> None:
    texts = {ask(FakeEngine(seed=seed)).text for seed in range(8)}
    assert len(texts) > 4
