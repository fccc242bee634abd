"""Prompts to token ids: the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimrl.config import RolloutConfig
from slimrl.config.hf_folder import HfFolder, open_hf_folder
from slimrl.data.prompts import LongPromptError, PromptRow
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
        max_prompt_len: int | None = None,
        context_len: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.tokenizer = load_tokenizer(hf_checkpoint)
        self.tokenizer.model_max_length = sys.maxsize  # it would only warn, and of another limit than the model's
        self._apply_chat_template = apply_chat_template
        self._template_kwargs = dict(template_kwargs or {})
        self._max_prompt_len = max_prompt_len
        self._context_len = context_len
        self._vocab_size = vocab_size
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
            max_prompt_len=rollout.rollout_max_prompt_len,
            context_len=context_len(rollout, model),
            vocab_size=model.config.get("vocab_size"),
        )

    @property
    def may_leave_vocabulary(self) -> bool:
        """Whether the tokenizer has ids that the model has no embedding for."""
        return self._vocab_size is not None and len(self.tokenizer) > self._vocab_size

    def encode(self, row: PromptRow, where: str) -> list[int]:
        """Token ids of a row's prompt.

        Raises DataError with `where` when it needs a template or has ids outside of the vocabulary, LongPromptError
        when it is too long.
        """
        tokens = self._tokens(row, where)
        if self._max_prompt_len is not None and len(tokens) > self._max_prompt_len:
            raise LongPromptError(
                f"{where}: the prompt has {len(tokens)} tokens; --rollout-max-prompt-len allows {self._max_prompt_len}"
            )
        if self._context_len is not None and len(tokens) >= self._context_len:
            raise LongPromptError(
                f"{where}: the prompt has {len(tokens)} tokens, which leaves no room for a reply in the "
                f"context of {self._context_len}"
            )
        if self._vocab_size is not None and tokens and not 0 <= min(tokens) <= max(tokens) < self._vocab_size:
            outside = next(token for token in tokens if not 0 <= token < self._vocab_size)
            raise DataError(
                f"{where}: the prompt has the token id {outside}, the model's vocabulary has {self._vocab_size}; "
                "this tokenizer is of another model"
            )
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


def context_len(rollout: RolloutConfig, model: HfFolder) -> int | None:
    """Tokens at most of prompt and response together, as told or as the model has positions."""
    return rollout.rollout_max_context_len or model.max_positions


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
