"""Conversations of a model that knows no chat: what is said stands there as it is, one text behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from slimrl.endpoint.messages import ChatMessage
from slimrl.endpoint.template import Tools
from slimrl.tokenizer import load_tokenizer


class PlainTemplate:
    """In the place of a ChatTemplate where prompts are plain texts."""

    def __init__(self, tokenizer: Any) -> None:  # transformers has no types
        self._tokenizer = tokenizer

    @classmethod
    def open(cls, hf_checkpoint: Path) -> Self:
        """With the tokenizer of an HF checkpoint."""
        return cls(load_tokenizer(hf_checkpoint))

    def tail(
        self, messages: Sequence[ChatMessage], replied: int, tools: Tools, last_token: int
    ) -> tuple[list[int], str]:
        """The contents of the messages behind the reply at `replied - 1`: there is nothing around them."""
        text = "".join(str(message["content"]) for message in messages[replied:])
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]), text

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))
