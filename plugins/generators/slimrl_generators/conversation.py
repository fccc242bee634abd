"""The conversation of one sample: replies of the model, and between them what it is told. Tokens in, tokens out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, Self

from slimrl import (
    ChatTemplate,
    EngineClient,
    PlainTemplate,
    PluginOptions,
    Sample,
    SamplingParams,
    SlimrlError,
    Status,
    UsageError,
    next_reply,
)
from slimrl.config import CkptConfig, RolloutConfig
from slimrl_generators.single_turn import STATUS

Template = ChatTemplate | PlainTemplate
Told = Mapping[str, Any]
"""A message to the model: role and content, and what else its chat template reads."""


class Conversation:
    """Goes on from `sample.prompt_tokens` and `sample.tokens`; what is there is never tokenised again.

    What the model wrote is trained on, what it was told in between is not. `max_new_tokens` of the sampling bounds
    what the model writes in all replies together, `max_context_len` all there is. `sample.status` always says how the
    sample stands if nothing follows. Everything that a sample which was cut off needs to go on is in
    `sample.metadata[name]`: `messages` behind the prompt, `begun` (where in tokens and text an unfinished reply
    begins) and `given`, the metadata as it was before.
    """

    def __init__(
        self,
        sample: Sample,
        sampling: SamplingParams,
        engine: EngineClient,
        template: Template,
        *,
        name: str,
        tools: Sequence[dict[str, Any]] = (),  # JSON, as the prompt was rendered with
    ) -> None:
        self.sample = sample
        self._sampling = sampling
        self._engine = engine
        self._template = template
        self._tools = list(tools)
        self._name = name
        self._prompt = _messages(sample.prompt)
        state = sample.metadata.get(name)
        if state is not None and not sample.tokens:  # it starts over
            sample.metadata = deepcopy(state["given"])
            state = None
        if state is None:
            state = {"messages": [], "given": deepcopy(sample.metadata)}
            if sample.tokens:  # another generator began it: all of it is the first reply
                state["begun"] = [0, 0]
        self._state: dict[str, Any] = state  # JSON
        sample.metadata[name] = state
        if self._is_unanswered:
            sample.status = Status.TRUNCATED if self._next_sampling(0) is None else Status.COMPLETED

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Everything behind the prompt: replies (assistant) and what was told."""
        found: list[dict[str, Any]] = self._state["messages"]
        return found

    @property
    def turns(self) -> int:
        """Replies that are finished."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Where the run has enough and cancels in between, what the sample has is whole: it can go on from there."""
        if isinstance(error, asyncio.CancelledError) and self.sample.tokens:
            self.sample.status, self.sample.reason = Status.ABORTED, "cut off between two turns"

    async def reply(self) -> str | None:
        """The model's next reply, or one that was cut off with its rest; None where there is none.

        The status says what it is then: TRUNCATED without budget, ABORTED by the engine. A reply that its length has
        cut leaves TRUNCATED too, and is the last one. It is the same one again until something is told.
        """
        if self._is_unanswered:  # the sample was cut off while what is told next was made
            return str(self.messages[-1]["content"])
        sample, begun = self.sample, self._state.get("begun")
        token, letter = begun or (len(sample.tokens), len(sample.response))
        sampling = self._next_sampling(0)
        if sampling is None:
            sample.status = Status.TRUNCATED
            if begun is None:
                return None
            text = self._template.text(sample.tokens[token:])
        else:
            completion = await self._engine.generate(sample.prompt_tokens + sample.tokens, sampling)
            sample.append(completion.tokens, completion.log_probs, completion.weight_versions, text=completion.text)
            sample.status = STATUS[completion.finish_reason]
            if sample.status is Status.ABORTED:
                sample.reason = completion.finish_message
                self._state["begun"] = [token, letter]
                return None
            # two requests may meet in the middle of a character
            text = completion.text if begun is None else self._template.text(sample.tokens[token:])
        self._state.pop("begun", None)
        sample.reason = ""
        sample.response = sample.response[:letter] + text
        self.messages.append({"role": "assistant", "content": text})
        return text

    def tell(self, *messages: Told) -> bool:
        """Append messages to the model behind its reply; False, and the sample is TRUNCATED, without room for more.

        SlimrlError where the chat template has no rendering of what follows a reply.
        """
        sample, whole = self.sample, [*self._prompt, *self.messages]
        new = [dict(message) for message in messages]
        tail = self._template.tail([*whole, *new], len(whole), self._tools, sample.tokens[-1])
        if tail is None:
            raise SlimrlError(
                "the chat template does not render what follows a reply in these messages (roles: "
                f"{', '.join(str(message.get('role')) for message in [*whole, *new])}); the conversation cannot go on"
            )
        tokens, text = tail
        if self._next_sampling(len(tokens)) is None:
            sample.status = Status.TRUNCATED
            return False
        version = sample.weight_versions[-1]
        sample.append(tokens, [0.0] * len(tokens), [version] * len(tokens), trainable=False, text=text)
        self.messages.extend(new)
        sample.status = Status.PENDING
        return True

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the sample's metadata, all but the conversation's own."""
        self.sample.metadata = {**metadata, self._name: self._state}

    @property
    def _is_unanswered(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def _next_sampling(self, more: int) -> SamplingParams | None:
        """How a reply behind `more` further tokens would be sampled; None where there is no room for one."""
        sample = self.sample
        return next_reply(
            self._sampling,
            turn=self.turns,
            written=sum(sample.loss_mask),
            used=len(sample.prompt_tokens) + len(sample.tokens) + more,
        )


def open_template(options: PluginOptions, who: str) -> Callable[[], Template]:
    """Opens, once and when it is needed, what renders as the prompts were: the chat template, or plain text."""
    checkpoint, rollout = options[CkptConfig].hf_checkpoint, options[RolloutConfig]
    if checkpoint is None:
        raise UsageError(f"{who} tokenises what the model is told with the tokenizer of --hf-checkpoint; give one")

    @cache
    def template() -> Template:
        if not rollout.apply_chat_template:
            return PlainTemplate.open(checkpoint)
        return ChatTemplate.open(checkpoint, json.loads(rollout.apply_chat_template_kwargs or "{}"))

    return template


def _messages(prompt: Any) -> list[dict[str, Any]]:  # Any: a Prompt
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(message) for message in prompt]
