"""A tokenizer whose tokens are bytes, as those of FakeEngine are, with a chat template in the manner of Qwen's."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimrl.endpoint import ChatTemplate

TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content.strip() }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END, START = 0, 256


def make_byte_checkpoint(folder: Path) -> Path:
    """A folder with a tokenizer: token 0 is <|im_end|>, token 256 <|im_start|>, every other one its byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for place, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + place)
    vocabulary = {letter: byte for byte, letter in letters.items() if byte}
    vocabulary |= {"<|im_end|>": END, "<|im_start|>": START}
    words = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<|im_start|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def byte_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_byte_checkpoint(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="session")
def template(byte_checkpoint: Path) -> ChatTemplate:
    return ChatTemplate.open(byte_checkpoint)
