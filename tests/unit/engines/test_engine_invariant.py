"""With deterministic inference a request's numbers do not depend on its company, to the last bit."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from slimrl import hub
from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.request import Request


def _numbers(requests: list[Request]) -> list[tuple[list[int], list[float], list[float]]]:
    return [(request.output_ids, request.log_probs, request.input_log_probs) for request in requests]


def _check(engine: Engine, make: Any) -> None:
    alone = make()
    for request in alone:
        engine.generate([request])
    crowd = make()
    random.Random(0).shuffle(crowd)
    engine.generate(crowd)
    crowd.sort(key=lambda request: int(request.request_id))
    staggered = make()
    for request in staggered:
        started = threading.Event()
        request.on_progress = started.set
        engine.scheduler.submit([request])
        assert started.wait(60)
    for request in staggered:
        request.done.result(60)
    assert _numbers(crowd) == _numbers(alone)
    assert _numbers(staggered) == _numbers(alone)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_alone_in_a_crowd_and_staggered_are_bitwise_equal(
    kind: str, save_model: Any, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    config = {"sliding_window": 8} if kind == "mistral" else {}
    engine = open_engine(save_model(kind, **config), deterministic=True, chunked_prefill_size=16)

    def make() -> list[Request]:
        return [
            ask(
                some_prompt(i // 2, 5 + 9 * (i // 2)), str(i), seed=i, max_new_tokens=6 + 5 * i,
                score_from=0 if i % 3 == 0 else None, temperature=0.8 if i % 2 else 1.3,
            )
            for i in range(9)
        ]  # fmt: skip

    _check(engine, make)


def test_a_real_model_is_bitwise_equal_too(open_engine: Any, ask: Any) -> None:
    engine = open_engine(Path(hub.fetch("smollm2-135m")), deterministic=True)
    texts = ("The capital of France is", "What is 3 + 4?", "Once upon a time")

    def make() -> list[Request]:
        return [ask(engine.text.encode(texts[i % 3]), str(i), seed=i // 3, max_new_tokens=2 + i % 4) for i in range(9)]

    _check(engine, make)
