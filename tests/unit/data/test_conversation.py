"""Conversations as tokens and a mask of what the assistant said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from slimrl.data.conversation import Conversation, ConversationEncoder
from slimrl.data.prompts import PromptRow
from slimrl.errors import DataError
from slimrl.tokenizer import load_tokenizer

ASKED = {"role": "user", "content": "1+1?"}
TALK = [ASKED, {"role": "assistant", "content": "2"}, {"role": "user", "content": "sure?"}]
TALK = [*TALK, {"role": "assistant", "content": "yes"}]
LAST_THINKS = (  # in the manner of Qwen3: an empty thought before the last reply, none before earlier ones
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_END = (  # in the manner of GLM: a turn ends where the next one begins
    "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
FORGETFUL = (  # shows the last message alone
    "{% for m in messages %}{% if loop.last %}{{ m.role }}:{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


MUST_THINK = (  # in the manner of QwQ: a prompt ends with the beginning of a thought, which no message shows
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture
def tokenizer(byte_checkpoint: Path) -> Any:  # transformers has no types
    return load_tokenizer(byte_checkpoint)


def encoded(
    tokenizer: Any, messages: list[dict[str, Any]], template: str | None = None, **settings: Any
) -> Conversation:
    own = copy.copy(tokenizer)
    own.chat_template = template or tokenizer.chat_template
    return ConversationEncoder(own, **settings).encode(PromptRow(messages), "rows.jsonl:1")


def shown(tokenizer: Any, made: Conversation) -> str:
    """What is trained on in brackets."""
    text, inside = tokenizer.decode(made.prompt_tokens), False
    for token, is_trained in zip(made.tokens, made.loss_mask, strict=True):
        text += ("[" if is_trained else "]") * (bool(is_trained) != inside) + tokenizer.decode([token])
        inside = bool(is_trained)
    return text + "]"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            None,
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]\n<|im_start|>user\nsure?<|im_end|>\n"
            "<|im_start|>assistant\n[yes<|im_end|>]",
        ),
        (
            LAST_THINKS,
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]\n<|im_start|>user\nsure?<|im_end|>\n"
            "<|im_start|>assistant\n[<think></think>yes<|im_end|>]",
        ),
        (
            NO_END,
            "<|im_start|>user:1+1?<|im_start|>assistant:[2<|im_start|>]user:sure?<|im_start|>assistant:[yes<|im_end|>]",
        ),
    ],
)
def test_replies_and_what_ends_them_are_trained_on(tokenizer: Any, template: str | None, expected: str) -> None:
    assert shown(tokenizer, encoded(tokenizer, TALK, template)) == expected


def test_a_reply_that_begins_like_what_a_prompt_adds_is_whole(tokenizer: Any) -> None:
    messages = [ASKED, {"role": "assistant", "content": "<tool_call>2"}]
    assert shown(tokenizer, encoded(tokenizer, messages, MUST_THINK)).endswith("assistant\n[<tool_call>2<|im_end|>]")
    thought = [ASKED, {"role": "assistant", "content": "<think>\n1</think>2"}]
    assert shown(tokenizer, encoded(tokenizer, thought, MUST_THINK)).endswith("<think>\n[1</think>2<|im_end|>]")


def test_what_follows_the_last_reply_is_left_out(tokenizer: Any) -> None:
    assert shown(tokenizer, encoded(tokenizer, TALK[:3])).endswith("assistant\n[2<|im_end|>]")


def test_a_reply_that_calls_a_tool_is_trained_on_with_its_call(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [ASKED, {"role": "assistant", "content": "let me see", "tool_calls": [call]}, TALK[2], TALK[3]]
    text = shown(tokenizer, encoded(tokenizer, messages))
    assert '[let me see<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>]' in text


@pytest.mark.parametrize(
    ("messages", "template", "settings", "reason"),
    [
        (TALK, FORGETFUL, {}, "rows.jsonl:1: the chat template does not show message 2 as it was generated"),
        (TALK[1:], None, {}, "rows.jsonl:1: .* message 1|nothing predicts its first token"),
        (TALK, None, {"max_len": 20}, r"rows.jsonl:1: the conversation has \d+ tokens; the context has 20"),
        ([ASKED], None, {}, "rows.jsonl:1: the assistant says nothing"),
        (TALK, "{{ raise_exception('no') }}", {}, "rows.jsonl:1: the chat template refuses this conversation: no"),
    ],
)
def test_a_conversation_that_cannot_be_trained_on_is_refused_with_its_place(
    tokenizer: Any, messages: list[dict[str, Any]], template: str | None, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        encoded(tokenizer, messages, template, **settings)
