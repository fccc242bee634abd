"""Tiny random models as checkpoint folders, and engines on them that are closed again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.options import EngineOptions
from slimrl.engines.embedded.params import Sampling
from slimrl.engines.embedded.request import Request

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

SaveModel = Callable[..., Path]
OpenEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """Write a random model of a transformers model type, with a seed and configuration values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def save(model_type: str, *, seed: int = 0, **config: Any) -> Path:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **config}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):  # they begin as ones and zeros, which hides mistakes
                    parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(model_type)
        model.float().save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_llama(save_model: SaveModel) -> Path:
    """A random Llama with a tied head."""
    return save_model("llama", tie_word_embeddings=True)


@pytest.fixture
def open_engine() -> Iterator[OpenEngine]:
    """Start an engine on a folder; it is closed after the test."""
    opened: list[Engine] = []

    def start(folder: Path, **options: Any) -> Engine:
        engine = Engine(replace(EngineOptions(folder, random_seed=0), **options))
        opened.append(engine)
        return engine

    yield start
    for engine in opened:
        engine.close()
    gc.collect()


@pytest.fixture(scope="session")
def ask() -> Callable[..., Request]:
    """Make a request; options are those of Request or of Sampling."""

    def make(prompt: list[int], request_id: str = "r", *, seed: int = 0, **options: Any) -> Request:
        own = {name: options.pop(name) for name in ("score_from", "num_top") if name in options}
        sampling = Sampling(**{"max_new_tokens": 8, "ignore_eos": True, **options})
        return Request(request_id, tuple(prompt), sampling, seed=seed, **own)

    return make


@pytest.fixture(scope="session")
def some_prompt() -> Callable[..., list[int]]:
    """Random token ids from a seed."""

    def make(seed: int, length: int, vocab_size: int = 128) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, vocab_size, (length,), generator=generator).tolist()

    return make
