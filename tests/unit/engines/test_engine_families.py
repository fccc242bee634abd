"""The engine's own forward and the fallback compute what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.fallback import FallbackRunner
from slimrl.engines.embedded.native import NativeRunner
from slimrl.engines.embedded.request import Request

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with a tied head": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with head_dim of its own": ("llama", {"head_dim": 20}),
    "llama 3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 6}),
    "glm4": ("glm4", {"head_dim": 16}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    "deepseek_v3": ("deepseek_v3", {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16,
                                    "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12,
                                    "n_routed_experts": 8, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
                                    "moe_intermediate_size": 24, "first_k_dense_replace": 1}),
    "yarn rope": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                                "original_max_position_embeddings": 128}}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*NATIVE, *OTHERS])
def test_sampled_log_probs_equal_those_of_transformers(
    name: str, save_model: Any, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    kind, config = {**NATIVE, **OTHERS}[name]
    folder = save_model(kind, **config)
    engine: Engine = open_engine(folder)
    assert isinstance(engine.runner, NativeRunner if name in NATIVE else FallbackRunner)
    common = some_prompt(0, 9)
    prompts = [common + some_prompt(seed, length) for seed, length in ((1, 5), (2, 5), (3, 12))] + [[5]]
    requests = [
        ask(prompt, seed=copy, max_new_tokens=6 + 5 * copy, temperature=0.7, score_from=2 if copy == 3 else None)
        for prompt in prompts
        for copy in range(4)
        if copy != 3 or len(prompt) > 2
    ]
    engine.generate(requests)
    assert len({tuple(request.output_ids) for request in requests}) > len(prompts)
    _compare(folder, requests, temperature=0.7)


@pytest.mark.parametrize("name", ["llama", "mistral with a window", "qwen3"])
def test_a_step_of_shapes_that_stay_computes_the_same(
    name: str, save_model: Any, open_engine: Any, ask: Any, some_prompt: Any
) -> None:
    """What a GPU records and replays."""
    kind, config = NATIVE[name]
    folder = save_model(kind, **config)
    found = []
    for records in (False, True):
        engine = open_engine(folder)
        engine.runner._records = records
        requests = [
            ask(some_prompt(seed % 3, 5 + 20 * (seed % 3)), seed=seed, max_new_tokens=4 + 9 * seed, temperature=0.8)
            for seed in range(7)
        ]
        engine.generate(requests)
        assert (engine.runner._graph is not None) is records
        found.append([(request.output_ids, request.log_probs) for request in requests])
    for (ids, log_probs), (other_ids, other_log_probs) in zip(*found, strict=True):
        assert ids == other_ids
        assert torch.tensor(log_probs).sub(torch.tensor(other_log_probs)).abs().max() < 1e-4


def test_bfloat16_is_close_to_float32(save_model: Any, open_engine: Any, ask: Any, some_prompt: Any) -> None:
    folder = save_model("qwen3", head_dim=16)
    found = []
    for dtype in ("float32", "bfloat16"):
        request = ask(some_prompt(0, 30), score_from=0, max_new_tokens=4)
        open_engine(folder, dtype=dtype).generate([request])
        assert len(request.output_ids) == 4
        found.append(torch.tensor(request.input_log_probs))
    assert 0 < found[0].sub(found[1]).abs().max() < 0.3


def _compare(folder: Path, requests: list[Request], temperature: float) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for request in requests:
        ids = torch.tensor([[*request.prompt_ids, *request.output_ids]])
        with torch.inference_mode():
            logits = model(ids).logits[0].float()
        num_prompt = len(request.prompt_ids)
        scaled = torch.log_softmax(logits[num_prompt - 1 : -1] / temperature, -1)
        wanted = scaled.gather(1, ids[0, num_prompt:, None])[:, 0]
        assert torch.tensor(request.log_probs).sub(wanted).abs().max() < 1e-4
        if request.score_from is not None:
            plain = torch.log_softmax(logits[request.score_from - 1 : num_prompt - 1], -1)
            wanted = plain.gather(1, ids[0, request.score_from : num_prompt, None])[:, 0]
            assert torch.tensor(request.input_log_probs).sub(wanted).abs().max() < 1e-4
