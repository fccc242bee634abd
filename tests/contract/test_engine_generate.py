"""POST /generate: inputs, log-probs, stop rules, batches, streams and refusals, the same from every server."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest
import torch

from slimrl.engines.client import HttpEngineClient
from slimrl.types import SamplingParams

pytestmark = pytest.mark.timeout(900)

PROMPT = "The capital of France is"
TEXT = "Water boils at one hundred degrees. It freezes at zero, and that is how the scale was made: by two numbers."

LOG_PROB_TOLERANCE = 1e-4
"""Absolute, in nats, against transformers in float32; both servers compute in float32."""

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def log_probs_of(reply: Any) -> list[float]:
    return [entry[0] for entry in reply["meta_info"]["output_token_logprobs"]]


def ids_of(reply: Any) -> list[int]:
    return [entry[1] for entry in reply["meta_info"]["output_token_logprobs"]]


def reference_log_probs(logits_of, prompt: list[int], response: list[int], temperature: float = 1.0) -> list[float]:
    rows = logits_of(prompt + response)[len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(rows, -1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist()


def test_ids_and_text_are_the_same_prompt(engine, tokenizer) -> None:
    by_text = engine.generate(text=PROMPT, sampling_params={**GREEDY, "max_new_tokens": 6})
    by_ids = engine.generate(input_ids=tokenizer(PROMPT).input_ids, sampling_params={**GREEDY, "max_new_tokens": 6})
    assert by_text["text"] == by_ids["text"] == tokenizer.decode(by_text["output_ids"])
    assert by_text["output_ids"] == by_ids["output_ids"]


def test_greedy_tokens_are_the_likeliest_and_their_log_probs_are_transformers(engine, tokenizer, logits_of) -> None:
    prompt = tokenizer(PROMPT).input_ids
    reply = engine.generate(input_ids=prompt, sampling_params={**GREEDY, "max_new_tokens": 12}, return_logprob=True)
    response = reply["output_ids"]
    assert ids_of(reply) == response
    assert logits_of(prompt + response)[len(prompt) - 1 : -1].argmax(-1).tolist() == response
    assert log_probs_of(reply) == pytest.approx(
        reference_log_probs(logits_of, prompt, response), abs=LOG_PROB_TOLERANCE
    )


@pytest.mark.parametrize("limits", [{}, {"top_p": 0.7}, {"top_k": 5}])
def test_log_probs_follow_the_temperature_but_not_top_p_and_top_k(engine, tokenizer, logits_of, limits) -> None:
    prompt = tokenizer(PROMPT).input_ids
    sampling = {"temperature": 0.6, "max_new_tokens": 10, "ignore_eos": True, **limits}
    reply = engine.generate(input_ids=prompt, sampling_params=sampling, return_logprob=True)
    expected = reference_log_probs(logits_of, prompt, ids_of(reply), temperature=0.6)
    assert log_probs_of(reply) == pytest.approx(expected, abs=LOG_PROB_TOLERANCE)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_no_new_tokens_and_a_start_of_zero_score_the_prompt_at_temperature_one(
    engine, tokenizer, logits_of, temperature
) -> None:
    ids = tokenizer(TEXT).input_ids
    reply = engine.generate(
        input_ids=ids,
        sampling_params={"max_new_tokens": 0, "temperature": temperature},
        return_logprob=True,
        logprob_start_len=0,
    )
    entries = reply["meta_info"]["input_token_logprobs"]
    assert [entry[1] for entry in entries] == ids
    assert entries[0][0] is None
    expected = reference_log_probs(logits_of, ids[:1], ids[1:])
    assert [entry[0] for entry in entries[1:]] == pytest.approx(expected, abs=LOG_PROB_TOLERANCE)


def test_the_client_asks_for_the_log_probs_of_given_tokens(engine, tokenizer, logits_of) -> None:
    ids = tokenizer(TEXT).input_ids

    async def ask() -> list[float]:
        async with HttpEngineClient(engine.url) as client:
            return await client.log_probs(ids)

    assert asyncio.run(ask()) == pytest.approx(reference_log_probs(logits_of, ids[:1], ids[1:]), abs=LOG_PROB_TOLERANCE)


def test_the_likeliest_alternatives_come_in_order(engine) -> None:
    reply = engine.generate(
        text=PROMPT,
        sampling_params={**GREEDY, "max_new_tokens": 3},
        return_logprob=True,
        top_logprobs_num=4,
    )
    for chosen, alternatives in zip(
        reply["meta_info"]["output_token_logprobs"], reply["meta_info"]["output_top_logprobs"], strict=True
    ):
        assert len(alternatives) == 4
        assert alternatives[0][1] == chosen[1]
        values = [alternative[0] for alternative in alternatives]
        assert values == sorted(values, reverse=True)


def test_a_batch_answers_in_order_what_each_would_alone(engine, tokenizer) -> None:
    prompts = [tokenizer(text).input_ids for text in (PROMPT, "1, 2, 3, 4,", "Once upon a time")]
    sampling = {**GREEDY, "max_new_tokens": 5}
    alone = [engine.generate(input_ids=ids, sampling_params=sampling)["output_ids"] for ids in prompts]
    together = engine.generate(input_ids=prompts, sampling_params=sampling)
    assert [reply["output_ids"] for reply in together] == alone


def test_a_batch_of_texts_takes_sampling_parameters_and_names_one_by_one(engine) -> None:
    replies = engine.generate(
        text=[PROMPT, PROMPT],
        sampling_params=[{**GREEDY, "max_new_tokens": 2}, {**GREEDY, "max_new_tokens": 4}],
        rid=["first", "second"],
    )
    assert [reply["meta_info"]["completion_tokens"] for reply in replies] == [2, 4]
    assert [reply["meta_info"]["id"] for reply in replies] == ["first", "second"]


def test_several_samples_of_one_prompt_are_a_list(engine) -> None:
    replies = engine.generate(text=PROMPT, sampling_params={"max_new_tokens": 8, "temperature": 1.5, "n": 3})
    assert len(replies) == 3
    assert len({tuple(reply["output_ids"]) for reply in replies}) > 1


def test_the_reply_counts_tokens_and_says_why_it_ended(engine, tokenizer) -> None:
    reply = engine.generate(text=PROMPT, sampling_params={**GREEDY, "max_new_tokens": 4})
    meta = reply["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 4}
    assert meta["prompt_tokens"] == len(tokenizer(PROMPT).input_ids)
    assert meta["completion_tokens"] == len(reply["output_ids"]) == 4
    assert meta["e2e_latency"] > 0
    assert 0 <= meta["cached_tokens"] < meta["prompt_tokens"]


def test_a_stop_token_stays_in_the_ids_and_leaves_the_text(engine, tokenizer) -> None:
    free = engine.generate(text=PROMPT, sampling_params={**GREEDY, "max_new_tokens": 6})["output_ids"]
    stop = free[2]
    end = free.index(stop) + 1
    reply = engine.generate(
        text=PROMPT,
        sampling_params={"temperature": 0.0, "max_new_tokens": 6, "stop_token_ids": [stop]},
        return_logprob=True,
    )
    assert reply["output_ids"] == ids_of(reply) == free[:end]
    assert reply["text"] == tokenizer.decode(free[: end - 1])
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}


def test_the_end_token_stops_unless_it_is_ignored(engine, tokenizer) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_dict=False
    )
    sampling = {"temperature": 0.0, "max_new_tokens": 40}
    reply = engine.generate(input_ids=prompt, sampling_params=sampling)
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": tokenizer.eos_token_id}
    assert reply["output_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token not in reply["text"]
    length = len(reply["output_ids"])
    longer = engine.generate(
        input_ids=prompt, sampling_params={**sampling, "max_new_tokens": length + 2, "ignore_eos": True}
    )
    assert longer["output_ids"][:length] == reply["output_ids"]
    assert longer["meta_info"]["finish_reason"]["type"] == "length"
    forced = engine.generate(input_ids=prompt, sampling_params={**sampling, "min_new_tokens": length + 3})
    assert len(forced["output_ids"]) >= length + 3


def test_special_tokens_are_shown_on_request(engine, tokenizer) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_dict=False
    )
    sampling = {"temperature": 0.0, "max_new_tokens": 40, "skip_special_tokens": False, "no_stop_trim": True}
    assert engine.generate(input_ids=prompt, sampling_params=sampling)["text"].endswith(tokenizer.eos_token)


def test_a_stop_string_ends_the_text_before_it_or_after_it(engine) -> None:
    sampling = {"temperature": 0.0, "max_new_tokens": 20, "stop": ["5", "never"]}
    trimmed = engine.generate(text="1, 2, 3,", sampling_params=sampling, return_logprob=True)
    kept = engine.generate(text="1, 2, 3,", sampling_params={**sampling, "no_stop_trim": True})
    assert "5" not in trimmed["text"]
    assert kept["text"] == trimmed["text"] + "5"
    assert trimmed["meta_info"]["finish_reason"] == {"type": "stop", "matched": "5"}
    assert trimmed["output_ids"] == kept["output_ids"] == ids_of(trimmed)


def test_chunks_of_a_stream_grow_to_the_whole_answer(engine) -> None:
    request: dict[str, Any] = {
        "text": PROMPT,
        "sampling_params": {**GREEDY, "max_new_tokens": 6},
        "return_logprob": True,
    }

    async def collect() -> list[Any]:
        async with engine.stream(**request) as chunks:
            return [chunk async for chunk in chunks]

    chunks = asyncio.run(collect())
    whole = engine.generate(**request)
    for earlier, later in itertools.pairwise(chunks):
        assert later["output_ids"][: len(earlier["output_ids"])] == earlier["output_ids"]
        assert later["text"].startswith(earlier["text"])
        assert earlier["meta_info"]["finish_reason"] is None
    assert len(chunks) > 2
    assert chunks[-1]["output_ids"] == whole["output_ids"] == ids_of(chunks[-1])
    assert chunks[-1]["text"] == whole["text"]
    assert chunks[-1]["meta_info"]["finish_reason"] == whole["meta_info"]["finish_reason"]
    assert log_probs_of(chunks[-1]) == pytest.approx(log_probs_of(whole), abs=LOG_PROB_TOLERANCE)


def test_the_client_reads_what_the_server_writes(engine, tokenizer) -> None:
    prompt = tokenizer("1, 2, 3,").input_ids

    async def run() -> Any:
        async with HttpEngineClient(engine.url) as client:
            return await asyncio.gather(
                client.generate(prompt, SamplingParams(20, temperature=0.0, stop=("5",))),
                client.generate(prompt, SamplingParams(3)),
            )

    stopped, sampled = asyncio.run(run())
    assert stopped.finish_reason == "stop"
    assert stopped.text.endswith("5")
    assert tokenizer.decode(stopped.tokens) == stopped.text
    assert sampled.finish_reason == "length"
    assert len(sampled.tokens) == len(sampled.log_probs) == len(sampled.weight_versions) == 3
    assert sampled.num_prompt_tokens == len(prompt)
    assert all(math.isfinite(value) and value <= 0 for value in sampled.log_probs)


@pytest.mark.parametrize(
    "request_body",
    [
        {"sampling_params": {"max_new_tokens": 1}},
        {"input_ids": [], "sampling_params": {"max_new_tokens": 1}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": 1, "temprature": 1.0}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": 1, "temperature": -1.0}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": 1, "top_p": 0.0}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": 1, "top_k": -3}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": -1}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": 1, "stop": [str(i) for i in range(33)]}},
        {"input_ids": [1] * 9000, "sampling_params": {"max_new_tokens": 1}},
    ],
    ids=["no input", "empty", "unknown field", "temperature", "top_p", "top_k", "length", "stops", "too long"],
)
def test_a_request_that_makes_no_sense_is_refused_with_400_and_a_reason(engine, request_body) -> None:
    response = engine.ask("POST", "/generate", request_body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"] if isinstance(error, dict) else error
    assert engine.generate(text=PROMPT, sampling_params={**GREEDY, "max_new_tokens": 1})["output_ids"]


def test_unknown_fields_beside_the_sampling_parameters_are_ignored(engine) -> None:
    body = {"text": PROMPT, "sampling_params": {**GREEDY, "max_new_tokens": 1}, "colour": "blue"}
    assert engine.ask("POST", "/generate", body).status_code == 200


def test_a_seed_repeats_a_response_whatever_runs_beside_it(engine) -> None:
    if engine.name == "sglang":
        pytest.skip("SGLang 0.5.23 heeds sampling_seed only with --enable-deterministic-inference")
    sampling = {"max_new_tokens": 8, "temperature": 1.0, "ignore_eos": True}
    alone = engine.generate(text=PROMPT, sampling_params={**sampling, "sampling_seed": 7})
    crowd = engine.generate(
        text=["Once upon a time", PROMPT, PROMPT],
        sampling_params=[{**sampling, "sampling_seed": seed} for seed in (3, 7, 8)],
    )
    assert crowd[1]["output_ids"] == alone["output_ids"] != crowd[2]["output_ids"]


def test_a_token_id_outside_the_vocabulary_is_refused(engine, tokenizer) -> None:
    if engine.name == "sglang":
        pytest.skip("SGLang 0.5.23 on a CPU ends when a token id is outside the vocabulary; the client refuses it")
    body = {"input_ids": [1, len(tokenizer)], "sampling_params": {"max_new_tokens": 1}}
    assert engine.ask("POST", "/generate", body).status_code == 400
    assert engine.generate(text=PROMPT, sampling_params={**GREEDY, "max_new_tokens": 1})["output_ids"]
