"""Text to tokens and back, and which tokens end a response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from slimrl.engines.embedded.params import RequestError, Sampling


class _Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


class Text:
    """A checkpoint's tokenizer, or none: then only token ids can be sent and texts are empty."""

    def __init__(self, model_path: Path) -> None:
        self._tokenizer = _tokenizer(model_path)

    @property
    def is_known(self) -> bool:
        """Whether there is a tokenizer."""
        return self._tokenizer is not None

    def encode(self, text: str) -> list[int]:
        """Token ids as the model's tokenizer gives them by default; raises RequestError without a tokenizer."""
        if self._tokenizer is None:
            raise RequestError("the model folder has no tokenizer; send input_ids")
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int], sampling: Sampling) -> str:
        """Text of token ids."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(ids, skip_special_tokens=sampling.skip_special_tokens)

    def show(self, token: int) -> str:
        """Text of one token, special or not."""
        return "" if self._tokenizer is None else self._tokenizer.decode([token], skip_special_tokens=False)


def end_ids(model_path: Path, config: Mapping[str, Any]) -> frozenset[int]:
    """Tokens that end a response: what config.json and generation_config.json call eos."""
    ends: set[int] = set()
    path = model_path / "generation_config.json"
    generation = json.loads(path.read_text()) if path.exists() else {}
    for source in (config, generation):
        found = source.get("eos_token_id")
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ends)


def _tokenizer(model_path: Path) -> _Tokenizer | None:
    settings = model_path / "tokenizer_config.json"
    has_cleanup = settings.exists() and json.loads(settings.read_text()).get("clean_up_tokenization_spaces")
    if (model_path / "tokenizer.json").exists() and not has_cleanup:
        # the library under transformers' fast tokenizers: 3 CPU seconds and 120 MB less to load
        return _Fast(model_path / "tokenizer.json")
    if settings.exists() or (model_path / "tokenizer.json").exists():
        from transformers import AutoTokenizer

        tokenizer: _Tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
        return tokenizer
    return None


class _Fast:
    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text
