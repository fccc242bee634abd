"""What the application answers, without a socket; the contract suite covers the rest over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from slimrl import hub
from slimrl.engines.embedded.app import make_app
from slimrl.engines.embedded.engine import Engine

Talk = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


def _talk(engine: Engine, talk: Talk) -> Any:
    async def main() -> Any:
        transport = httpx.ASGITransport(app=make_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
            return await talk(client)

    return asyncio.run(main())


def _generate(engine: Engine, **body: Any) -> httpx.Response:
    return _talk(engine, lambda client: client.post("/generate", json=body))


@pytest.fixture(scope="module")
def real() -> Any:
    from slimrl.engines.embedded.options import EngineOptions

    engine = Engine(EngineOptions(hub.fetch("smollm2-135m"), random_seed=0))
    yield engine
    engine.close()


@pytest.fixture
def engine(tiny_llama: Path, open_engine: Any) -> Engine:
    return open_engine(tiny_llama)


def test_a_stop_string_ends_the_text_before_itself_and_the_ids_after(real: Engine) -> None:
    asked = {"text": "The capital of France is", "sampling_params": {"temperature": 0, "stop": ["\n\n"]}}
    found = _generate(real, **asked).json()
    assert found["text"] == " Paris."
    assert found["meta_info"]["finish_reason"] == {"type": "stop", "matched": "\n\n"}
    assert real.text.decode(found["output_ids"], _plain()) == " Paris.\n\n"
    asked["sampling_params"]["no_stop_trim"] = True
    assert _generate(real, **asked).json()["text"] == " Paris.\n\n"


def test_a_stop_token_stays_in_the_ids_and_leaves_the_text(real: Engine) -> None:
    (newline,) = real.text.encode("\n")
    sampling = {"temperature": 0, "stop_token_ids": [newline]}
    found = _generate(real, text="The capital of France is", sampling_params=sampling).json()
    assert found["text"] == " Paris."
    assert found["output_ids"][-1] == newline
    assert found["meta_info"]["finish_reason"] == {"type": "stop", "matched": newline}
    ignoring = {**sampling, "ignore_eos": True, "max_new_tokens": 6}
    found = _generate(real, text="The capital of France is", sampling_params=ignoring).json()
    assert found["meta_info"]["finish_reason"] == {"type": "length", "length": 6}


def test_a_stream_is_cumulative_and_ends_with_done(real: Engine) -> None:
    response = _generate(
        real, text="The capital of France is", stream=True, return_logprob=True,
        sampling_params={"temperature": 0, "max_new_tokens": 3},
    )  # fmt: skip
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 3}
    for before, after in itertools.pairwise(chunks):
        assert after["output_ids"][: len(before["output_ids"])] == before["output_ids"]
    assert all(len(chunk["meta_info"]["output_token_logprobs"]) == len(chunk["output_ids"]) for chunk in chunks)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the scheduler's thread has no event to wait for
        await asyncio.sleep(0.001)


def _plain() -> Any:
    from slimrl.engines.embedded.params import Sampling

    return Sampling()


def test_a_batch_and_n_answer_with_a_list_in_order(engine: Engine) -> None:
    found = _generate(
        engine, input_ids=[[5, 6], [7]], rid=["a", "b"],
        sampling_params=[{"n": 2, "max_new_tokens": 2, "sampling_seed": 1}] * 2,
    ).json()  # fmt: skip
    assert [one["meta_info"]["id"] for one in found] == ["a_0", "a_1", "b_0", "b_1"]
    assert [one["meta_info"]["prompt_tokens"] for one in found] == [2, 2, 1, 1]
    alone = _generate(engine, input_ids=[5, 6], sampling_params={"max_new_tokens": 2, "sampling_seed": 1}).json()
    assert alone["output_ids"] == found[0]["output_ids"]


def test_pure_scoring_gives_every_prompt_token_a_log_prob(engine: Engine) -> None:
    found = _generate(
        engine, input_ids=[5, 6, 7], sampling_params={"max_new_tokens": 0}, return_logprob=True, logprob_start_len=0,
        top_logprobs_num=2,
    ).json()  # fmt: skip
    meta = found["meta_info"]
    assert found["output_ids"] == [] and meta["finish_reason"] == {"type": "length", "length": 0}
    assert [entry[1] for entry in meta["input_token_logprobs"]] == [5, 6, 7]
    assert meta["input_token_logprobs"][0][0] is None
    assert all(entry[0] < 0 for entry in meta["input_token_logprobs"][1:])
    assert [None if top is None else len(top) for top in meta["input_top_logprobs"]] == [None, 2, 2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "exactly one of"),
        ({"text": "a", "input_ids": [1]}, "exactly one of"),
        ({"text": "a"}, "no tokenizer"),
        ({"input_ids": []}, "not empty"),
        ({"input_ids": ["5"]}, "list of token ids"),
        ({"input_ids": [True]}, "list of token ids"),
        ({"input_ids": [[5], 5]}, "list of token ids"),
        ({"input_ids": [500]}, "outside the vocabulary"),
        ({"input_ids": [5], "sampling_params": {"max_new_tokens": 512}}, "more than the model's 512"),
        ({"input_ids": [5], "sampling_params": 3}, "not an object"),
        ({"input_ids": [[5], [6]], "sampling_params": [{}]}, "1 entries for 2 prompts"),
        ({"input_ids": [5], "rid": 7}, "'rid' must be"),
        ({"input_ids": [5], "return_logprob": "yes"}, "'return_logprob' must be a bool"),
        ({"input_ids": [5], "return_logprob": True, "logprob_start_len": 1}, "the prompt has 1 tokens"),
        ({"input_ids": [5], "return_logprob": True, "top_logprobs_num": 1000}, "between 0 and"),
        ({"input_ids": [5], "lora_path": "x"}, "'lora_path' is not supported"),
        ({"input_ids": [5], "sampling_params": {"n": 5000}}, "more than 4096 responses"),
        ({"input_ids": [5], "stream": True, "sampling_params": {"n": 2}}, "stream takes one prompt"),
    ],
)
def test_a_wrong_body_is_answered_400_with_the_reason(body: dict[str, Any], words: str, engine: Engine) -> None:
    response = _generate(engine, **body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_unknown_fields_are_ignored_and_broken_json_is_not(engine: Engine) -> None:
    assert _generate(engine, input_ids=[5], sampling_params={"max_new_tokens": 1}, extra_key="x").status_code == 200
    response = _talk(engine, lambda client: client.post("/generate", content=b"{"))
    assert response.status_code == 400


def test_a_full_queue_is_503_and_health_answers_while_paused(tiny_llama: Path, open_engine: Any) -> None:
    engine = open_engine(tiny_llama, max_queued_requests=1)

    async def talk(client: httpx.AsyncClient) -> None:
        assert (await client.post("/pause_generation", json={"mode": "in_place"})).status_code == 200
        waiting = asyncio.create_task(client.post("/generate", json={"input_ids": [5], "rid": "w"}))
        await _until(lambda: engine.scheduler.num_waiting == 1)
        assert (await client.post("/generate", json={"input_ids": [5]})).status_code == 503
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health_generate")).status_code == 200
        loads = (await client.get("/v1/loads")).json()["loads"][0]
        assert (loads["num_running_reqs"], loads["num_waiting_reqs"]) == (0, 1)
        await client.post("/abort_request", json={"rid": "w"})
        assert (await waiting).json()["meta_info"]["finish_reason"]["type"] == "abort"
        assert (await client.post("/pause_generation", json={"mode": "bogus"})).status_code == 400
        await client.post("/continue_generation")
        assert (await client.get("/health_generate")).status_code == 200

    _talk(engine, talk)


def test_a_caller_who_hangs_up_frees_the_engine(engine: Engine) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        body = json.dumps({"input_ids": [5], "sampling_params": {"max_new_tokens": 500, "ignore_eos": True}}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(_: Any) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/generate", "headers": [], "query_string": b""}
        await make_app(engine)(scope, receive, send)

    _talk(engine, talk)
    assert engine.scheduler.num_running == 0
    assert engine.scheduler.num_generated < 400


def test_flush_waits_for_requests_but_not_for_those_a_pause_put_back(engine: Engine) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        body = {"input_ids": [5], "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
        running = asyncio.create_task(client.post("/generate", json=body))
        await _until(lambda: engine.scheduler.num_running == 1)
        await client.post("/pause_generation", json={"mode": "in_place"})
        assert (await client.post("/flush_cache")).status_code == 400
        await client.post("/pause_generation", json={"mode": "retract"})
        assert (await client.post("/flush_cache")).status_code == 200
        await client.post("/continue_generation")
        assert len((await running).json()["output_ids"]) == 400

    _talk(engine, talk)


def test_checksums_and_names_show_the_weights(engine: Engine) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        url = "/weights_checker"
        assert (await client.post(url, json={"action": "compare"})).status_code == 400
        assert len((await client.post(url, json={"action": "checksum"})).json()["checksums"]) == 2 + 3 * 9
        await client.post(url, json={"action": "snapshot"})
        assert (await client.post(url, json={"action": "compare"})).status_code == 200
        head = await client.get("/get_weights_by_name", params={"name": "model.norm.weight", "truncate_size": "2"})
        assert len(head.json()) == 2
        missing = await client.get("/get_weights_by_name", params={"name": "nothing"})
        assert missing.status_code == 400

    _talk(engine, talk)
