"""The tokenizer of an HF checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

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
