"""Whether a prompt fits the model, told without a tokenizer where its text is short enough."""

from __future__ import annotations

import json
from collections.abc import Callable

from slimrl.data.encoder import PromptEncoder
from slimrl.data.prompts import PromptRow

BYTES_PER_MESSAGE = 64
"""More than the tokens that a template puts around one message."""


class PromptFits:
    """Refuses prompts as the encoder does, and makes the encoder only when a prompt could be too long.

    A token is at least one byte of text: what is shorter than the limit, with all that the template may add, fits.
    """

    def __init__(self, make_encoder: Callable[[], PromptEncoder], *, limit: int | None, template: str) -> None:
        self._make_encoder = make_encoder
        self._encoder: PromptEncoder | None = None
        self._limit = limit
        self._template_bytes = len(template.encode())

    def __call__(self, row: PromptRow, where: str) -> None:
        """Raises what the encoder would raise for a row."""
        if self._limit is None or self._bound(row) <= self._limit:
            return
        if self._encoder is None:
            self._encoder = self._make_encoder()
        self._encoder.encode(row, where)

    def _bound(self, row: PromptRow) -> int:
        """Tokens that a row's prompt has at most."""
        if isinstance(row.prompt, str):
            size, messages = len(row.prompt.encode("utf-8", "replace")), 1
        else:
            size, messages = _json_bytes(row.prompt), len(row.prompt)
        if self._template_bytes:
            size += self._template_bytes + BYTES_PER_MESSAGE * messages
        # templates print schemas with spaces and on lines of their own
        return size + (4 * _json_bytes(row.tools) if row.tools else 0) + 2  # the tokenizer's own first and last


def _json_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace"))
