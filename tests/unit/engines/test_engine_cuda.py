"""The embedded engine on a GPU: `python -m pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slimrl.engines.embedded.request import Request

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 7},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gpt2": {},
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


FALLBACK = {"gpt2", "qwen3_moe"}


def log_probs(folder: Path, request: Request, temperature: float) -> torch.Tensor:
    """Of a request's tokens by transformers, on the CPU."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[*request.prompt_ids, *request.output_ids]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(1, ids[0, len(request.prompt_ids) :, None])[:, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.1)])
@pytest.mark.parametrize("kind", MODELS)
def test_log_probs_equal_those_of_transformers(
    kind: str, dtype: str, tolerance: float, save_model: Any, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    folder = save_model(kind, **MODELS[kind])
    engine = open_engine(folder, device="cuda", dtype=dtype)
    requests = [
        ask(some_prompt(0, 9) + some_prompt(i // 4, 5 + i // 4), seed=i, max_new_tokens=6 + 5 * i, temperature=0.7)
        for i in range(12)
    ]
    engine.generate(requests)
    if kind not in FALLBACK:
        assert engine.runner._graph is not None, "the last row's steps were recorded"
        assert engine.runner._graph.is_recorded
    for request in requests:
        wanted = log_probs(folder, request, 0.7)
        # in bfloat16 a token may go to another expert
        assert torch.tensor(request.log_probs).sub(wanted).abs().mean() < tolerance


def test_deterministic_numbers_do_not_depend_on_the_company(
    tiny_llama: Path, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    engine = open_engine(tiny_llama, device="cuda", dtype="bfloat16", deterministic=True)

    def make() -> list[Request]:
        return [ask(some_prompt(i // 2, 5 + 7 * i), str(i), seed=i, max_new_tokens=6 + 5 * i) for i in range(7)]

    alone, together = make(), make()
    for request in alone:
        engine.generate([request])
    engine.generate(together)
    for one, other in zip(alone, together, strict=True):
        assert (one.output_ids, one.log_probs) == (other.output_ids, other.log_probs)
