"""A stretch of conversation that is one sequence of tokens: a prompt, replies, and what came between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slimrl.endpoint.messages import ChatMessage, common_prefix
from slimrl.endpoint.template import Tools
from slimrl.types import Completion, Sample, Status


@dataclass(frozen=True)
class Mark:
    """A segment as it was after one reply."""

    messages: int
    tokens: int


@dataclass
class Segment:
    """Grows by a reply at a time; nothing in it is ever tokenised twice."""

    messages: list[ChatMessage]
    tools: Tools
    sample: Sample
    """Only the prompt and what follows it; everything else of it is `fill`'s."""
    marks: list[Mark] = field(default_factory=list)
    is_truncated: bool = False
    """Whether the last reply was cut off by its length."""

    def add(self, completion: Completion, reply: ChatMessage, *, trainable: bool) -> None:
        """Append a reply."""
        self.sample.append(
            completion.tokens,
            completion.log_probs,
            completion.weight_versions,
            trainable=trainable,
            text=completion.text,
        )
        self.messages.append(reply)
        self.marks.append(Mark(len(self.messages), len(self.sample.prompt_tokens) + len(self.sample.tokens)))
        self.is_truncated = completion.finish_reason == "length"

    def add_between(self, messages: Sequence[ChatMessage], tokens: Sequence[int], text: str) -> None:
        """Append what stands between two replies; it is not trained on."""
        version = self.sample.weight_versions[-1] if self.sample.weight_versions else 0
        self.sample.append(tokens, [0.0] * len(tokens), [version] * len(tokens), trainable=False, text=text)
        self.messages.extend(messages)

    def continued_by(self, messages: Sequence[ChatMessage], tools: Tools) -> Mark | None:
        """The last reply up to which a conversation is this one and goes on behind it."""
        if list(tools) != list(self.tools):
            return None
        same = common_prefix(self.messages, messages)
        fitting = [mark for mark in self.marks if mark.messages <= same and mark.messages < len(messages)]
        return fitting[-1] if fitting else None

    def tokens_until(self, mark: Mark) -> list[int]:
        """All token ids up to and with the reply of a mark."""
        return (self.sample.prompt_tokens + self.sample.tokens)[: mark.tokens]

    def fill(self, sample: Sample) -> None:
        """Make a sample this segment: its prompt, its tokens with what belongs to them, its status."""
        own = self.sample
        sample.prompt_tokens = list(own.prompt_tokens)
        sample.tokens = list(own.tokens)
        sample.log_probs = list(own.log_probs)
        sample.loss_mask = list(own.loss_mask)
        sample.weight_versions = list(own.weight_versions)
        sample.response = own.response
        sample.status = Status.TRUNCATED if self.is_truncated else Status.COMPLETED
        sample.reason = ""


def new_segment(messages: Sequence[ChatMessage], tools: Tools, prompt_tokens: Sequence[int]) -> Segment:
    """A segment with nothing but its prompt."""
    return Segment(list(messages), tools, Sample(0, 0, 0, "", list(prompt_tokens)))
