"""Prompts to token ids: the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from slimrl.errors import DataError
from slimrl.types import Prompt

GENERIC: Final = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Tokenizer classes that add nothing to tokenizer.json."""


def load_tokenizer(hf_checkpoint: Path) -> Any:  # transformers has no types
    """The tokenizer of a checkpoint; no code from it is run and nothing is downloaded."""
    settings = hf_checkpoint / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.exists() else None
    if named in GENERIC and (hf_checkpoint / "tokenizer.json").exists():
        # AutoTokenizer would import torch: 270 MB and three seconds that a tokenizer has no use for
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer
    return Tokenizer.from_pretrained(hf_checkpoint, local_files_only=True)


class PromptEncoder:
    """Turns prompts into token ids with the tokenizer of an HF checkpoint; no code from the checkpoint is run."""

    def __init__(self, hf_checkpoint: Path, *, apply_chat_template: bool, max_prompt_len: int | None = None) -> None:
        self.tokenizer = load_tokenizer(hf_checkpoint)
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
