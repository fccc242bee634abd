"""Requests join, leave, are aborted, paused, retracted and carried over new weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.params import RequestError
from slimrl.engines.embedded.request import Request
from slimrl.engines.embedded.scheduler import QueueFullError
from slimrl.engines.embedded.updates import WeightUpdates


def _after(request: Request, count: int) -> threading.Event:
    """Set when a request has so many tokens."""
    reached = threading.Event()
    request.on_progress = lambda: reached.set() if len(request.output_ids) >= count else None
    return reached


def _on_scheduler(engine: Engine, action: Callable[[], Any]) -> Any:
    return engine.scheduler.call(action).result(30)


def _close(one: Request, other: Request) -> None:
    assert one.output_ids == other.output_ids
    assert torch.tensor(one.log_probs).sub(torch.tensor(other.log_probs)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_requests_that_join_and_leave_get_what_they_get_alone(
    kind: str, save_model: Any, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    engine = open_engine(save_model(kind, **({"sliding_window": 9} if kind == "mistral" else {})))
    prompts = [some_prompt(seed // 2, 3 + 7 * (seed // 2)) for seed in range(8)]

    def requests() -> list[Request]:
        return [ask(prompt, str(i), seed=i, max_new_tokens=5 + 6 * i) for i, prompt in enumerate(prompts)]

    alone = requests()
    for request in alone:
        engine.generate([request])
    staggered = requests()
    for request, later in zip(reversed(staggered), reversed([None, *staggered[:-1]]), strict=True):
        joined = _after(request, 3)
        engine.scheduler.submit([request])
        if later is not None:
            assert joined.wait(30)
    for request, other in zip(staggered, alone, strict=True):
        request.done.result(30)
        _close(request, other)
    engine.close()
    assert engine.runner.tokens_held() == 0


def test_samples_of_one_prompt_share_its_prefill_and_their_common_beginning(
    tiny_llama: Path, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    engine = open_engine(tiny_llama)
    decode, rows_per_step = engine.runner.decode, []

    def counting() -> Any:
        rows, logits = decode()
        rows_per_step.append(len(rows))
        return rows, logits

    engine.runner.decode = counting
    same = [ask(some_prompt(0, 30), str(i), temperature=0.0, max_new_tokens=6) for i in range(5)]
    engine.generate(same)
    assert rows_per_step == [1] * 5
    assert len({tuple(request.output_ids) for request in same}) == 1
    assert sorted(request.num_cached for request in same) == [0, 29, 29, 29, 29]
    rows_per_step.clear()
    engine.generate([ask(some_prompt(0, 30), str(i), seed=i, temperature=5.0, max_new_tokens=6) for i in range(5)])
    assert rows_per_step[-1] == 5


def test_a_seed_decides_a_response_and_its_absence_the_server_s_seed(tiny_llama: Path, open_engine: Any) -> None:
    first, second, other = (open_engine(tiny_llama, random_seed=seed) for seed in (5, 5, 6))
    assert [first.draw_seed() for _ in range(3)] == [second.draw_seed() for _ in range(3)]
    assert first.draw_seed() != other.draw_seed()


def test_abort_returns_what_there_is(tiny_llama: Path, open_engine: Any, ask: Any) -> None:
    engine = open_engine(tiny_llama, max_running_requests=2)
    running, other, waiting = (ask([5, 6], name, max_new_tokens=400) for name in ("a-1", "b-1", "a-2"))
    reached = _after(running, 3)
    engine.scheduler.submit([running, other, waiting])
    assert reached.wait(30)
    count = _on_scheduler(engine, lambda: engine.scheduler.abort(lambda request: request.request_id.startswith("a-")))
    assert count == 2
    for request in (running, waiting):
        request.done.result(30)
        assert (request.finish_reason or {})["type"] == "abort"
    assert 3 <= len(running.output_ids) == len(running.log_probs) < 400
    assert waiting.output_ids == []
    other.done.result(30)
    assert len(other.output_ids) == 400


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_a_pause_changes_nothing_but_time(
    mode: Any, tiny_llama: Path, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    engine = open_engine(tiny_llama)
    alone = [ask(some_prompt(i, 9), str(i), seed=i, max_new_tokens=60) for i in range(3)]
    engine.generate(alone)
    paused = [ask(some_prompt(i, 9), str(i), seed=i, max_new_tokens=60) for i in range(3)]
    reached = _after(paused[0], 5)
    engine.scheduler.submit(paused)
    assert reached.wait(30)
    _on_scheduler(engine, lambda: engine.scheduler.pause(mode))
    counts = [len(request.output_ids) for request in paused]
    late = ask(some_prompt(9, 4), "late")
    engine.scheduler.submit([late])
    time.sleep(0.05)
    assert [len(request.output_ids) for request in paused] == counts
    assert not late.done.done()
    assert (engine.runner.tokens_held() == 0) == (mode == "retract")
    _on_scheduler(engine, engine.scheduler.resume)
    late.done.result(30)
    for request, other in zip(paused, alone, strict=True):
        request.done.result(30)
        _close(request, other)
        assert request.num_retractions == (mode == "retract")


def test_pause_abort_finishes_everything(tiny_llama: Path, open_engine: Any, ask: Any) -> None:
    engine = open_engine(tiny_llama)
    request = ask([5], max_new_tokens=400)
    reached = _after(request, 2)
    engine.scheduler.submit([request])
    assert reached.wait(30)
    _on_scheduler(engine, lambda: engine.scheduler.pause("abort"))
    assert (request.finish_reason or {})["type"] == "abort"
    assert engine.scheduler.is_paused


def test_tokens_before_and_after_a_weight_update_name_their_version(
    tiny_llama: Path, save_model: Any, open_engine: Any, ask: Any
) -> None:
    other = save_model("llama", seed=1, tie_word_embeddings=True)
    engine = open_engine(tiny_llama)
    updates = WeightUpdates(engine)
    request = ask([5, 6, 7], max_new_tokens=40)
    reached = _after(request, 4)
    engine.scheduler.submit([request])
    assert reached.wait(30)
    _on_scheduler(engine, lambda: engine.scheduler.pause("in_place"))
    _on_scheduler(engine, lambda: updates.from_disk(other, "1"))
    before = len(request.output_ids)
    _on_scheduler(engine, engine.scheduler.resume)
    request.done.result(30)
    assert [(span.version, span.start, span.end) for span in request.spans] == [("0", 0, before), ("1", before, 40)]
    # a new request sees nothing of the old weights
    fresh, wanted = ask([5, 6, 7], seed=3), ask([5, 6, 7], seed=3)
    engine.generate([fresh])
    open_engine(other).generate([wanted])
    _close(fresh, wanted)
    assert fresh.num_cached == 0


def test_a_small_cache_sends_the_youngest_back_and_loses_nothing(
    tiny_llama: Path, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    def requests() -> list[Request]:
        return [ask(some_prompt(i, 10), str(i), seed=i, max_new_tokens=50) for i in range(6)]

    roomy, tight = requests(), requests()
    open_engine(tiny_llama).generate(roomy)
    engine = open_engine(tiny_llama, max_total_tokens=200)
    engine.generate(tight)
    assert sum(request.num_retractions for request in tight) > 0
    for request, other in zip(tight, roomy, strict=True):
        _close(request, other)


def test_a_request_that_can_never_fit_is_refused(tiny_llama: Path, open_engine: Any, ask: Any) -> None:
    engine = open_engine(tiny_llama, max_total_tokens=64)
    for prompt, new, words in (
        ([], 1, "the prompt is empty"),
        ([128], 1, "token id 128 is outside the vocabulary of 128"),
        ([-1], 1, "token id -1"),
        ([5] * 500, 13, "more than the model's 512"),
        ([5] * 40, 10, "larger --max-total-tokens"),
    ):
        with pytest.raises(RequestError, match=words):
            engine.generate([ask(prompt, max_new_tokens=new)])


def test_a_full_queue_refuses(tiny_llama: Path, open_engine: Any, ask: Any) -> None:
    engine = open_engine(tiny_llama, max_queued_requests=2)
    _on_scheduler(engine, lambda: engine.scheduler.pause("in_place"))
    engine.scheduler.submit([ask([5]), ask([6])])
    with pytest.raises(QueueFullError, match="at most 2"):
        engine.scheduler.submit([ask([7])])


def test_weights_that_give_no_numbers_fail_the_request_alone(
    tiny_llama: Path, tmp_path: Path, open_engine: Any, ask: Any
) -> None:
    engine = open_engine(tiny_llama)
    weights = load_file(tiny_llama / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _on_scheduler(engine, lambda: WeightUpdates(engine).from_disk(tmp_path, None))
    request = ask([5])
    engine.generate([request])
    assert (request.finish_reason or {})["status_code"] == 500
    _on_scheduler(engine, lambda: WeightUpdates(engine).from_disk(tiny_llama, None))
    again = ask([5])
    engine.generate([again])
    assert (again.finish_reason or {})["type"] == "length"


def test_a_step_that_fails_fails_its_requests_and_the_engine_goes_on(
    tiny_llama: Path, open_engine: Any, ask: Any
) -> None:
    engine = open_engine(tiny_llama)
    prefill = engine.runner.prefill

    def broken() -> Any:
        engine.runner.prefill = prefill
        raise MemoryError("no memory")

    engine.runner.prefill = broken
    request = ask([5])
    engine.generate([request])
    assert "no memory" in (request.finish_reason or {})["message"]
    again = ask([5])
    engine.generate([again])
    assert len(again.output_ids) == 8


def test_closing_gives_callers_what_they_have(tiny_llama: Path, open_engine: Any, ask: Any) -> None:
    engine = open_engine(tiny_llama)
    request = ask([5], max_new_tokens=500)
    reached = _after(request, 2)
    engine.scheduler.submit([request])
    assert reached.wait(30)
    engine.close()
    assert request.done.done()
    assert (request.finish_reason or {})["type"] in ("abort", "length")
