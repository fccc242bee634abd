"""Prompts to token ids: the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

from slimrl.errors import DataError
from slimrl.types import Prompt


class PromptEncoder:
    """Turns prompts into token ids with the tokenizer of an HF checkpoint; no code from the checkpoint is run."""

    def __init__(self, hf_checkpoint: Path, *, apply_chat_template: bool, max_prompt_len: int | None = None) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(hf_checkpoint)
        self._apply_chat_template = apply_chat_template
        self._max_prompt_len = max_prompt_len
        if apply_chat_template and not self.tokenizer.chat_template:
            raise DataError(f"--apply-chat-template: the tokenizer in {hf_checkpoint} has no chat template")

    def encode(self, prompt: Prompt, where: str) -> list[int]:
        """Token ids of one prompt; raises DataError with `where` when it is too long or needs a template."""
        if self._apply_chat_template:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
            # return_dict=False: transformers 5 would return a mapping, not the ids
            tokens = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        elif isinstance(prompt, str):
            tokens = self.tokenizer(prompt)["input_ids"]
        else:
            raise DataError(f"{where}: the prompt is a list of chat messages; add --apply-chat-template")
        if self._max_prompt_len is not None and len(tokens) > self._max_prompt_len:
            raise DataError(
                f"{where}: the prompt has {len(tokens)} tokens; --rollout-max-prompt-len allows {self._max_prompt_len}"
            )
        return list(tokens)
