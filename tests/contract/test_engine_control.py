"""Abort, pause, weights, versions and what a server says of itself, the same from every server."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimrl.engines.client import HttpEngineClient
from slimrl.sync.disk import DiskWay
from slimrl.sync.fleet import Fleet
from slimrl.types import SamplingParams

pytestmark = pytest.mark.timeout(900)

PROMPT = "Once upon a time"
LONG = {"max_new_tokens": 40, "temperature": 1.0, "ignore_eos": True}
GREEDY = {"max_new_tokens": 4, "temperature": 0.0, "ignore_eos": True}


async def read(chunks: Any, count: int) -> Any:
    """The chunk after which `count` tokens are there."""
    async for chunk in chunks:
        if len(chunk["output_ids"]) >= count:
            return chunk
    raise AssertionError(f"the stream ended before {count} tokens")


async def last(chunks: Any) -> Any:
    chunk = None
    async for chunk in chunks:  # noqa: B007  # the last one is wanted
        pass
    return chunk


def test_an_aborted_request_returns_what_it_had(engine) -> None:
    async def run() -> Any:
        request = {"text": PROMPT, "sampling_params": {**LONG, "max_new_tokens": 1000}, "return_logprob": True}
        async with engine.stream(**request, rid="story") as chunks:
            await read(chunks, 3)
            response = await asyncio.to_thread(engine.ask, "POST", "/abort_request", {"rid": "story"})
            assert response.status_code == 200
            return await last(chunks)

    reply = asyncio.run(run())
    assert reply["meta_info"]["finish_reason"]["type"] == "abort"
    assert 3 <= len(reply["output_ids"]) < 1000
    assert [entry[1] for entry in reply["meta_info"]["output_token_logprobs"]] == reply["output_ids"]


def test_the_client_aborts_one_request_and_not_another_whose_name_begins_alike(engine, tokenizer) -> None:
    prompt = tokenizer(PROMPT).input_ids
    short, long = SamplingParams(40), SamplingParams(1000)

    async def run() -> Any:
        async with HttpEngineClient(engine.url) as client:
            one = asyncio.create_task(client.generate(prompt, long, request_id="1"))
            ten = asyncio.create_task(client.generate(prompt, short, request_id="10"))
            # a twin that came later and has its tokens shows that the others have theirs
            twin = {"text": PROMPT, "sampling_params": LONG}
            await until_running(client, 2)
            async with engine.stream(**twin) as chunks:
                await read(chunks, 3)
                await client.abort("1")
                aborted, other = await asyncio.gather(one, ten)
                await client.abort_all()
                return aborted, other, await last(chunks)

    async def until_running(client: HttpEngineClient, count: int) -> None:
        while await client.num_requests() < count:  # noqa: ASYNC110  # only the server knows
            await asyncio.sleep(0.05)

    aborted, other, twin = asyncio.run(run())
    assert aborted.finish_reason == "abort"
    assert 0 < len(aborted.tokens) < 1000
    assert len(aborted.tokens) == len(aborted.log_probs) == len(aborted.weight_versions)
    assert other.finish_reason in ("stop", "length")
    assert twin["meta_info"]["finish_reason"]["type"] in ("abort", "length")


def test_aborting_nobody_is_no_error(engine) -> None:
    assert engine.ask("POST", "/abort_request", {"rid": "nobody"}).status_code == 200
    assert engine.ask("POST", "/abort_request", {"abort_all": True}).status_code == 200


def test_a_request_whose_caller_has_gone_ends(engine, tokenizer) -> None:
    async def run() -> None:
        async with HttpEngineClient(engine.url) as client:
            task = asyncio.create_task(client.generate(tokenizer(PROMPT).input_ids, SamplingParams(4000)))
            while await client.num_requests() < 1:  # noqa: ASYNC110  # only the server knows
                await asyncio.sleep(0.05)
            task.cancel()
            async with asyncio.timeout(30.0):
                while await client.num_requests() > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_a_paused_request_stands_still_and_then_goes_on(engine, mode) -> None:
    async def run() -> tuple[bool, Any]:
        async with HttpEngineClient(engine.url) as client:
            async with engine.stream(text=PROMPT, sampling_params=LONG, return_logprob=True) as chunks:
                await read(chunks, 3)
                await client.pause(mode)
                moved = asyncio.create_task(drain(chunks))
                await asyncio.sleep(1.0)  # what was on its way arrives
                before = len(moved_chunks)
                await asyncio.sleep(1.0)
                stood_still = len(moved_chunks) == before
                await client.resume()
                await moved
            return stood_still, moved_chunks[-1]

    moved_chunks: list[Any] = []

    async def drain(chunks: Any) -> None:
        async for chunk in chunks:
            moved_chunks.append(chunk)

    stood_still, reply = asyncio.run(run())
    assert stood_still
    assert reply["meta_info"]["finish_reason"] == {"type": "length", "length": 40}
    assert len(reply["meta_info"]["output_token_logprobs"]) == 40


def test_a_pause_that_aborts_ends_what_runs(engine) -> None:
    async def run() -> Any:
        async with HttpEngineClient(engine.url) as client:
            async with engine.stream(text=PROMPT, sampling_params={**LONG, "max_new_tokens": 1000}) as chunks:
                await read(chunks, 3)
                await client.pause("abort")
                reply = await last(chunks)
            await client.resume()
            return reply

    assert asyncio.run(run())["meta_info"]["finish_reason"]["type"] == "abort"


def test_a_request_that_comes_during_a_pause_waits_for_its_end(engine, tokenizer) -> None:
    async def run() -> bool:
        async with HttpEngineClient(engine.url) as client:
            await client.pause("in_place")
            task = asyncio.create_task(client.generate(tokenizer(PROMPT).input_ids, SamplingParams(2)))
            done, _ = await asyncio.wait({task}, timeout=1.5)
            await client.resume()
            assert len((await task).tokens) == 2
            return not done

    assert asyncio.run(run())


def test_the_cache_is_flushed_only_when_no_request_holds_it(engine) -> None:
    async def run() -> list[int]:
        statuses = []
        async with HttpEngineClient(engine.url) as client:
            async with engine.stream(text=PROMPT, sampling_params={**LONG, "max_new_tokens": 1000}) as chunks:
                await read(chunks, 2)
                statuses.append((await asyncio.to_thread(engine.ask, "POST", "/flush_cache", {})).status_code)
                await client.abort_all()
                await last(chunks)
            await client.flush_cache()
        return statuses

    assert asyncio.run(run()) == [400]


def test_a_flush_while_requests_are_retracted_makes_them_compute_again_and_go_on(engine) -> None:
    async def run() -> Any:
        async with (
            HttpEngineClient(engine.url) as client,
            engine.stream(text=PROMPT, sampling_params=LONG) as chunks,
        ):
            await read(chunks, 3)
            await client.pause("retract")
            await client.flush_cache(timeout_s=5.0)
            await client.resume()
            return await last(chunks)

    assert len(asyncio.run(run())["output_ids"]) == LONG["max_new_tokens"]


def halved(checkpoint: Any) -> dict[str, torch.Tensor]:
    """Weights whose logits are half of the checkpoint's: their log-probs are those of temperature 2."""
    weights = load_file(checkpoint / "model.safetensors")
    return {**weights, "model.norm.weight": weights["model.norm.weight"] / 2}


@pytest.mark.usefixtures("changed_weights")
def test_weights_from_disk_answer_under_their_version(engine, tokenizer, logits_of, tmp_path) -> None:
    fleet = Fleet([engine.url], DiskWay(tmp_path / "weights", config_source=engine.checkpoint))
    fleet.publish(halved(engine.checkpoint).items(), version=5)
    prompt = tokenizer(PROMPT).input_ids
    reply = engine.generate(input_ids=prompt, sampling_params=GREEDY, return_logprob=True)
    entries = reply["meta_info"]["output_token_logprobs"]
    logits = logits_of(prompt + reply["output_ids"])[len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits / 2, -1).amax(-1).tolist()
    assert [entry[0] for entry in entries] == pytest.approx(expected, abs=1e-4)
    assert reply["meta_info"]["weight_version"] == "5"
    assert reply["meta_info"]["weight_versions"] == [{"version": "5", "start": 0, "end": 4}]
    assert engine.ask("GET", "/model_info").json()["weight_version"] == "5"


@pytest.mark.parametrize("damage", ["no folder", "no weights", "wrong shape"])
def test_weights_that_cannot_be_loaded_are_refused_and_the_old_ones_serve(engine, tmp_path, damage) -> None:
    if engine.name == "sglang" and damage == "wrong shape":
        pytest.skip("SGLang 0.5.23 ends when a shape is wrong")
    before = engine.generate(text=PROMPT, sampling_params=GREEDY, return_logprob=True)
    folder = tmp_path / "damaged"
    if damage != "no folder":
        folder.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(engine.checkpoint / name, folder / name)
    if damage == "wrong shape":
        weights = load_file(engine.checkpoint / "model.safetensors")
        weights["model.norm.weight"] = torch.ones(7)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    response = engine.ask(
        "POST", "/update_weights_from_disk", {"model_path": str(folder), "weight_version": "9", "flush_cache": True}
    )
    assert response.status_code == 400
    assert response.json()["success"] is False
    assert response.json()["message"]
    after = engine.generate(text=PROMPT, sampling_params=GREEDY, return_logprob=True)
    assert after["output_ids"] == before["output_ids"]
    log_probs = [[entry[0] for entry in reply["meta_info"]["output_token_logprobs"]] for reply in (before, after)]
    assert log_probs[1] == pytest.approx(log_probs[0], abs=1e-5)
    assert after["meta_info"]["weight_version"] == before["meta_info"]["weight_version"] != "9"


@pytest.mark.usefixtures("changed_weights")
def test_a_response_that_spans_two_versions_says_which_tokens_are_whose(engine) -> None:
    async def run() -> Any:
        async with HttpEngineClient(engine.url) as client:
            await client.update_weight_version(1)
            async with engine.stream(text=PROMPT, sampling_params=LONG, return_logprob=True) as chunks:
                await read(chunks, 3)
                await client.pause("in_place")
                await client.update_weight_version(2)
                await client.resume()
                return await last(chunks)

    spans = asyncio.run(run())["meta_info"]["weight_versions"]
    assert [span["version"] for span in spans] == ["1", "2"]
    assert spans[0]["start"] == 0
    assert 3 <= spans[0]["end"] == spans[1]["start"] < spans[1]["end"] == 40


def test_a_weight_can_be_read_by_its_hf_name(engine) -> None:
    weights = load_file(engine.checkpoint / "model.safetensors")
    response = engine.ask("POST", "/get_weights_by_name", {"name": "model.norm.weight", "truncate_size": 5})
    assert response.json() == pytest.approx(weights["model.norm.weight"][:5].tolist())


def test_checksums_of_the_weights_can_be_compared(engine) -> None:
    response = engine.ask("POST", "/weights_checker", {"action": "checksum"})
    assert response.status_code == 200
    assert response.json()["success"] is True


def test_an_engine_says_that_it_is_well(engine) -> None:
    for path in ("/health", "/health_generate", "/ready"):
        assert engine.ask("GET", path).status_code == 200, path


def test_an_engine_tells_model_arguments_and_version(engine) -> None:
    model = engine.ask("GET", "/model_info").json()
    assert model["model_path"] == model["tokenizer_path"] == str(engine.checkpoint)
    assert model["is_generation"] is True
    assert model["architectures"] == json.loads((engine.checkpoint / "config.json").read_text())["architectures"]
    assert isinstance(model["weight_version"], str)
    server = engine.ask("GET", "/server_info").json()
    assert server["model_path"] == str(engine.checkpoint)
    assert server["max_total_num_tokens"] >= server["max_req_input_len"] > 1000
    assert isinstance(server["version"], str)


def test_an_engine_counts_its_requests(engine) -> None:
    async def run() -> tuple[int, int]:
        async with HttpEngineClient(engine.url) as client:
            idle = await client.num_requests()
            async with engine.stream(text=PROMPT, sampling_params={**LONG, "max_new_tokens": 1000}) as chunks:
                await read(chunks, 1)
                busy = await client.num_requests()
                await client.abort_all()
                await last(chunks)
            return idle, busy

    assert asyncio.run(run()) == (0, 1)
    load = engine.ask("GET", "/v1/loads?include=core").json()["loads"][0]
    assert {"dp_rank", "num_running_reqs", "num_waiting_reqs", "num_used_tokens", "token_usage"} <= load.keys()
