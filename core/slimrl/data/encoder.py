"""Prompts to token ids: the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimrl.config import RolloutConfig
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.lengths import Lengths
from slimrl.data.limits import PromptLimits
from slimrl.data.prompts import PromptRow
from slimrl.errors import DataError
from slimrl.tokenizer import load_tokenizer
from slimrl.types import Prompt


class PromptEncoder:
    """Turns prompts into token ids with the tokenizer of an HF checkpoint; no code from the checkpoint is run."""

    def __init__(
        self,
        hf_checkpoint: Path,
        *,
        apply_chat_template: bool,
        template_kwargs: Mapping[str, Any] | None = None,
        limits: PromptLimits | None = None,
    ) -> None:
        self.tokenizer = load_tokenizer(hf_checkpoint)
        self.tokenizer.model_max_length = sys.maxsize  # it would only warn, and of another limit than the model's
        self._apply_chat_template = apply_chat_template
        self._template_kwargs = dict(template_kwargs or {})
        self._limits = limits
        if apply_chat_template and not self.tokenizer.chat_template:
            raise DataError(f"--apply-chat-template: the tokenizer in {hf_checkpoint} has no chat template")

    @classmethod
    def of_training(cls, rollout: RolloutConfig, hf_checkpoint: Path) -> PromptEncoder:
        """As the flags say, within the model's context and vocabulary."""
        model = open_hf_folder(hf_checkpoint, "--hf-checkpoint")
        return cls(
            hf_checkpoint,
            apply_chat_template=rollout.apply_chat_template,
            template_kwargs=json.loads(rollout.apply_chat_template_kwargs or "{}"),
            limits=PromptLimits.of(Lengths.of_training(rollout), model),
        )

    def within(self, limits: PromptLimits) -> PromptEncoder:
        """The same encoder, tokenizer and all, for prompts with other limits."""
        other = copy.copy(self)
        other._limits = limits
        return other

    @property
    def may_leave_vocabulary(self) -> bool:
        """Whether the tokenizer has ids that the model has no embedding for."""
        size = None if self._limits is None else self._limits.vocab_size
        return size is not None and len(self.tokenizer) > size

    def encode(self, row: PromptRow, where: str) -> list[int]:
        """Token ids of a row's prompt.

        Raises DataError with `where` when it needs a template or has ids outside of the vocabulary, LongPromptError
        when it is too long.
        """
        tokens = self._tokens(row, where)
        if self._limits is not None:
            self._limits.check(tokens, where)
        return tokens

    def check(self, row: PromptRow, where: str) -> None:
        """Raises what `encode` raises."""
        self.encode(row, where)

    def _tokens(self, row: PromptRow, where: str) -> list[int]:
        prompt = row.prompt
        if not self._apply_chat_template:
            if not isinstance(prompt, str):
                raise DataError(f"{where}: the prompt is a list of chat messages; add --apply-chat-template")
            return list(self.tokenizer(prompt)["input_ids"])
        try:
            tokens = self.tokenizer.apply_chat_template(
                _messages(prompt),
                tools=row.tools,
                # return_dict=False: transformers 5 would return a mapping, not the ids
                **{"add_generation_prompt": True, "return_dict": False, **self._template_kwargs},
            )
        except Exception as error:  # a template is a program of the checkpoint's, and raises what it likes
            raise DataError(f"{where}: the chat template refuses this prompt: {error}") from error
        return list(tokens)


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
