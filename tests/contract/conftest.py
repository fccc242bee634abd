"""Both servers that speak the engine contract, behind one fixture.

`engine` starts the embedded engine, and under the marker `sglang` a real SGLang from the virtual environment that
tests/sglang/setup.sh makes; both serve SmolLM2-135M in float32.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from slimrl import hub
from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Engine:
    """A running server and the plainest ways to ask it."""

    name: str
    url: str
    checkpoint: Path

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request, whatever the answer's status."""
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            return client.request(method, path, json=body)

    def generate(self, **fields: Any) -> Any:
        """The decoded answer of POST /generate, which must be 200."""
        response = self.ask("POST", "/generate", fields)
        assert response.status_code == 200, response.text
        return response.json()

    @asynccontextmanager
    async def stream(self, **fields: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """The chunks of a streamed POST /generate, decoded, one after the other; the end mark is checked."""
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=120, trust_env=False) as client,
            client.stream("POST", "/generate", json={**fields, "stream": True}) as response,
        ):
            assert response.headers["content-type"].startswith("text/event-stream")
            yield _chunks(response)


async def _chunks(response: httpx.Response) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without data: [DONE]")


@pytest.fixture(scope="session", params=["embedded", pytest.param("sglang", marks=pytest.mark.sglang)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A server with the weights of SmolLM2-135M; a test that changes them uses `changed_weights`."""
    checkpoint = hub.fetch("smollm2-135m")
    log = tmp_path_factory.mktemp(request.param) / "engine.log"
    if request.param == "embedded":
        settings = EngineSettings(checkpoint, device="cpu", dtype="float32", num_threads=1)
        process = EngineProcess(embedded_command(settings), log)
    else:
        venv = Path(os.environ.get("SLIMRL_SGLANG_VENV", REPOSITORY / ".venv-sglang")).absolute()
        if not (venv / "installed").exists():
            pytest.fail(f"no SGLang in {venv}; make it with tests/sglang/setup.sh {venv}")
        port = _free_port()
        serve = REPOSITORY / "tests" / "sglang" / "serve.sh"
        process = EngineProcess([str(serve), str(venv), str(checkpoint), str(port)], log, port=port)
    with process:
        yield Engine(request.param, process.start(timeout_s=500.0), checkpoint)


@pytest.fixture
def changed_weights(engine: Engine) -> Iterator[None]:
    """Gives the engine its first weights back after the test."""
    yield
    body = {"model_path": str(engine.checkpoint), "weight_version": "0", "flush_cache": True}
    assert engine.ask("POST", "/update_weights_from_disk", body).status_code == 200


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.fetch("smollm2-135m"))


@pytest.fixture(scope="session")
def logits_of() -> Callable[[Sequence[int]], Any]:
    """The logits [tokens, vocabulary] of a sequence by transformers: the reference of every log-prob."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hub.fetch("smollm2-135m"), dtype=torch.float32)

    def compute(tokens: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([list(tokens)])).logits[0]

    return compute


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
