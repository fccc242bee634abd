"""One row of a prompt file: under which keys it holds what, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slimrl.config import EvalConfig, RolloutConfig
from slimrl.config.eval_sets import EvalDataset
from slimrl.config.sft import is_sft
from slimrl.errors import DataError
from slimrl.types import Prompt


class LongPromptError(DataError):
    """A prompt has more tokens than it may have."""


@dataclass(frozen=True)
class PromptRow:
    """One row of a prompt file."""

    prompt: Prompt
    label: Any = None
    """Ground truth: any JSON value; the reward knows what it means."""
    metadata: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    """Schemas of the tools that the chat template describes; they are in the metadata too."""


@dataclass(frozen=True)
class PromptKeys:
    """Under which keys a row holds what."""

    input: str
    label: str | None
    metadata: str
    tools: str = "tools"
    messages: bool = True
    """Whether a prompt may be a list of chat messages: there is a template for them."""
    replies: bool = False
    """Whether it must be such a list, with at least one message of the assistant's: they are trained on."""

    @classmethod
    def of_training(cls, rollout: RolloutConfig) -> PromptKeys:
        """Those of --prompt-data."""
        return cls(
            rollout.input_key,
            rollout.label_key,
            rollout.metadata_key,
            rollout.tool_key,
            rollout.apply_chat_template,
            is_sft(rollout),
        )

    @classmethod
    def of_evaluation(cls, dataset: EvalDataset, config: EvalConfig, rollout: RolloutConfig) -> PromptKeys:
        """Those of an evaluation set."""
        tools = dataset.tool_key or config.eval_tool_key or rollout.tool_key
        return cls(*dataset.keys(config, rollout), tools, rollout.apply_chat_template)

    @property
    def needed(self) -> tuple[str, ...]:
        """Keys that every row has."""
        return (self.input,) if self.label is None else (self.input, self.label)

    @property
    def optional(self) -> tuple[str, ...]:
        """Keys that a row may have."""
        return (self.metadata, self.tools)

    def read(self, row: Mapping[str, Any], where: str) -> PromptRow:
        """The row in our terms; raises DataError with `where` (file:line) and the key."""
        prompt = _prompt(_value(row, self.input, "--input-key", where), self.input, where)
        if not self.messages and not isinstance(prompt, str):
            raise DataError(f"{where}: {self.input!r} is a list of chat messages; add --apply-chat-template")
        if self.replies and (isinstance(prompt, str) or all(m["role"] != "assistant" for m in prompt)):
            raise DataError(
                f"{where}: {self.input!r} must be a list of chat messages with one of the assistant's, which "
                "--loss-type sft_loss trains on"
            )
        metadata, tools = _metadata(row, self.metadata, where), _tools(row, self.tools, where)
        return PromptRow(
            prompt=prompt,
            label=None if self.label is None else _value(row, self.label, "--label-key", where),
            metadata=metadata if tools is None else {**metadata, "tools": tools},
            tools=tools,
        )


def _value(row: Mapping[str, Any], key: str, flag: str, where: str) -> Any:
    if key not in row:
        raise DataError(f"{where}: no key {key!r} ({flag}); this row has: {', '.join(row) or 'no keys'}")
    return row[key]


def _prompt(value: Any, key: str, where: str) -> Prompt:
    if isinstance(value, str) and value:
        return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    ):
        return value
    raise DataError(
        f"{where}: {key!r} must be a non-empty string or a list of chat messages with role and content, "
        f"got {json.dumps(value, ensure_ascii=False, default=str)[:80]}"
    )


def _metadata(row: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = _parsed(row.get(key), key, "--metadata-key", where)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{where}: {key!r} (--metadata-key) must be an object, got {type(value).__name__}")
    return value


def _tools(row: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]] | None:
    value = _parsed(row.get(key), key, "--tool-key", where)
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise DataError(f"{where}: {key!r} (--tool-key) must be a list of tool schemas (objects)")
    return value


def _parsed(value: Any, key: str, flag: str, where: str) -> Any:
    """A string is JSON: tables that have no nested columns hold it so."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {key!r} ({flag}) is a string and not JSON: {error}") from error
