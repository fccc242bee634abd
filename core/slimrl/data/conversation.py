"""Whole conversations as token ids, with a mask of what the assistant said: any chat template."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from slimrl.data.prompts import PromptRow
from slimrl.errors import DataError

MARK = "slimrl-reply-9d2c41"
"""Stands where a reply stood while what follows it is rendered."""

Messages = Sequence[dict[str, Any]]
"""Chat messages, as a template takes them: JSON."""


@dataclass(frozen=True)
class Conversation:
    """A row's tokens, cut where the first reply begins."""

    prompt_tokens: list[int]
    tokens: list[int]
    """From the first token of a reply to the last one."""
    loss_mask: list[int]
    """1 where the assistant chose the token, its end of a turn included."""


class ConversationEncoder:
    """Renders conversations with the checkpoint's template and finds the replies in what it made.

    No rule is of one template. What comes before a reply is rendered as a prompt, what follows it with a mark in its
    place; the reply is what is left between the two. A reply ends with a token that ends generation: the template's,
    the next turn's first one where that is what the model stops at, or else the tokenizer's own at the very end.
    """

    def __init__(
        self,
        tokenizer: Any,  # transformers has no types
        *,
        stop_token_ids: Collection[int] = (),
        variables: dict[str, Any] | None = None,
        max_len: int | None = None,
    ) -> None:
        """`stop_token_ids` end generation beside the tokenizer's special ones; `variables` are the template's own."""
        self._tokenizer = tokenizer
        self._eos: int | None = tokenizer.eos_token_id
        self._stops = frozenset((*stop_token_ids, *tokenizer.all_special_ids))
        self._variables = {k: v for k, v in (variables or {}).items() if k != "add_generation_prompt"}
        self._max_len = max_len

    def encode(self, row: PromptRow, where: str) -> Conversation:
        """Raises DataError with `where` for what the template refuses, for no reply, and for too many tokens."""
        messages = [dict(message) for message in row.prompt if isinstance(message, dict)]
        try:
            parts = self._parts(messages, row.tools)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except Exception as error:  # a template is a program of the checkpoint's, and raises what it likes
            raise DataError(f"{where}: the chat template refuses this conversation: {error}") from error
        tokens: list[int] = []
        mask: list[int] = []
        for number, (text, is_reply) in enumerate(parts):
            encoded = self._encode(text)
            chosen = len(encoded) if is_reply else self._end(encoded) if number else 0
            if number == len(parts) - 1 and mask and not chosen and not text.strip() and self._eos is not None:
                encoded, chosen = [self._eos], 1  # this template ends no turn
            tokens += encoded
            mask += [1] * chosen + [0] * (len(encoded) - chosen)
        if 1 not in mask:
            raise DataError(f"{where}: the assistant says nothing in this conversation")
        first, end = mask.index(1), len(mask) - mask[::-1].index(1)
        if first == 0:
            raise DataError(f"{where}: the conversation begins with the assistant; nothing predicts its first token")
        if self._max_len is not None and end > self._max_len:
            raise DataError(f"{where}: the conversation has {end} tokens; the context has {self._max_len}")
        return Conversation(tokens[:first], tokens[first:end], mask[first:end])

    def _parts(self, messages: Messages, tools: list[dict[str, Any]] | None) -> list[tuple[str, bool]]:
        """The rendered text in stretches, each with whether it is a reply."""
        whole = self._render(messages, tools)
        parts: list[tuple[str, bool]] = []
        done = 0
        for place, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            prompt = self._render(messages[:place], tools, add_generation_prompt=True)
            marked = self._render([*messages[:place], _marked(message), *messages[place + 1 :]], tools)
            before, found, tail = marked.rpartition(MARK)
            begin, context = _common(whole, prompt), prompt
            if begin < len(prompt):
                context = self._render(messages[:place], tools)
                # <tool_call> begins like the <think> that a prompt may end with, and is the reply's own
                begin = min(begin, _common(whole, before))
            end = len(whole) - len(tail)
            if not found or MARK in before or not whole.endswith(tail) or not whole.startswith(context):
                raise DataError(
                    f"the chat template does not show message {place + 1} as it was generated once others follow; make "
                    "a row of its own for each reply, as its last message"
                )
            if max(begin, done) < end:
                parts += [(whole[done : max(begin, done)], False), (whole[max(begin, done) : end], True)]
                done = end
        return [*parts, (whole[done:], False)]

    def _end(self, tokens: Sequence[int]) -> int:
        """How many tokens after a reply end it: blanks and one that ends generation; 0 where none does."""
        for place, token in enumerate(tokens):
            if token in self._stops:
                return place + 1
            if self._tokenizer.decode([token]).strip():
                break
        return 0

    def _render(
        self, messages: Messages, tools: list[dict[str, Any]] | None, *, add_generation_prompt: bool = False
    ) -> str:
        if not messages:
            return ""
        return str(
            self._tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                **{**self._variables, "add_generation_prompt": add_generation_prompt, "tokenize": False},
            )
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": message["role"], "content": MARK}
