"""Tool calls in a model's reply, in the Hermes format that Qwen and others are trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"


@dataclass(frozen=True)
class ToolCall:
    """One function the model wants called."""

    name: str
    arguments: str
    """A JSON object as text."""


def split_tool_calls(text: str) -> tuple[str, list[ToolCall]]:
    """A reply as its text and its calls; a block that is no call stays in the text."""
    kept: list[str] = []
    calls: list[ToolCall] = []
    at = 0
    while (start := text.find(OPEN, at)) >= 0 and (end := text.find(CLOSE, start)) >= 0:
        call = _read(text[start + len(OPEN) : end])
        after = end + len(CLOSE)
        kept.append(text[at : start if call else after])
        calls += [call] if call else []
        at = after
    kept.append(text[at:])
    joined = "".join(kept)
    return (joined.strip() if calls else joined), calls


def _read(block: str) -> ToolCall | None:
    try:
        said = json.loads(block)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return None
    arguments = said.get("arguments", said.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the object as a text already
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return ToolCall(said["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
