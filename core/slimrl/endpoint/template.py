"""Conversations as token ids: the checkpoint's chat template, whole or only what follows a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from slimrl.endpoint.fault import Fault
from slimrl.endpoint.messages import ChatMessage
from slimrl.errors import UsageError
from slimrl.tokenizer import load_tokenizer

MARK: Final = "slimrl-endpoint-reply-6b1f0c"
"""Stands where a reply stood while what follows it is rendered."""

Tools = Sequence[dict[str, Any]]
"""OpenAI's tool definitions, as a template takes them: JSON."""


class ChatTemplate:
    """Renders conversations with a tokenizer and its chat template."""

    def __init__(
        self,
        tokenizer: Any,  # transformers has no types
        where: str = "this checkpoint",
        variables: Mapping[str, Any] | None = None,  # JSON
    ) -> None:
        if not tokenizer.chat_template:
            raise UsageError(f"the tokenizer in {where} has no chat template; messages cannot be rendered")
        self._tokenizer = tokenizer
        self._variables = dict(variables or {})
        self._special = frozenset(tokenizer.all_special_ids)

    @classmethod
    def open(cls, hf_checkpoint: Path, variables: Mapping[str, Any] | None = None) -> Self:
        """The template of an HF checkpoint, with variables of its own; UsageError where it has none."""
        return cls(load_tokenizer(hf_checkpoint), str(hf_checkpoint), variables)

    def render(self, messages: Sequence[ChatMessage], tools: Tools) -> list[int]:
        """Token ids of a conversation up to where the next reply begins; Fault with what the template refuses."""
        try:
            return self._encode(self._text(messages, tools))
        except Exception as error:  # a template's edge: it may raise whatever it likes at an odd conversation
            raise Fault(f"the chat template cannot render these messages: {error}", param="messages") from error

    def tail(
        self, messages: Sequence[ChatMessage], replied: int, tools: Tools, last_token: int
    ) -> tuple[list[int], str] | None:
        """What follows the reply at `replied - 1`: the end of its turn, the messages behind it, the next turn's start.

        The reply's own tokens are never rendered again. An end token that the model sampled is not repeated. None
        where the template gives no such tail: the conversation is then a new one.
        """
        marked = [*messages[: replied - 1], {"role": "assistant", "content": MARK}, *messages[replied:]]
        try:
            text = self._text(marked, tools)
        except Exception:  # a template's edge: this one wants more of an assistant's message than a text
            return None
        before, found, tail = text.rpartition(MARK)
        if not found or MARK in before:
            return None
        tokens = self._encode(tail)
        if tokens and tokens[0] == last_token and last_token in self._special:
            tokens = tokens[1:]
        return tokens, tail

    def token_text(self, token: int) -> str:
        """One token as text."""
        return str(self._tokenizer.decode([token]))

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _text(self, messages: Sequence[ChatMessage], tools: Tools) -> str:
        rendered = self._tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            # variables may set add_generation_prompt, as those of prompts do
            **{"add_generation_prompt": True, **self._variables, "tokenize": False},
        )
        return str(rendered)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
