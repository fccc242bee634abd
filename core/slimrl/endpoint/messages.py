"""Messages of a conversation in one form, so that what a client sends back can be compared with what it was sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from slimrl.endpoint.fault import Fault

ROLES: Final = ("system", "developer", "user", "assistant", "tool")

ChatMessage = dict[str, Any]
"""A message in the form that chat templates take: content is a text, the arguments of a tool call are an object."""


def read_messages(messages: object) -> list[ChatMessage]:
    """The messages of a request; Fault names the place of one that cannot be used."""
    if not isinstance(messages, list) or not messages:
        raise Fault("messages must be a list with at least one message", param="messages")
    return [_read(message, f"messages[{place}]") for place, message in enumerate(messages)]


def common_prefix(stored: Sequence[ChatMessage], sent: Sequence[ChatMessage]) -> int:
    """How many messages from the start are the same in both."""
    count = 0
    for one, other in zip(stored, sent, strict=False):
        if _identity(one) != _identity(other):
            break
        count += 1
    return count


def _identity(message: ChatMessage) -> ChatMessage:
    """What makes two messages the same: clients trim a reply's text and name its tool calls as they like."""
    if message["role"] != "assistant":
        return message
    return {**message, "content": message["content"].strip(), "tool_calls": _functions(message)}


def _functions(message: ChatMessage) -> list[object]:
    return [call["function"] for call in message.get("tool_calls") or ()]


def _read(message: object, where: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise Fault(f"{where} must be an object", param=where)
    role = message.get("role")
    if role not in ROLES:
        raise Fault(f"{where}.role is {role!r}; it must be one of {', '.join(ROLES)}", param=f"{where}.role")
    calls = message.get("tool_calls") if role == "assistant" else None
    content = message.get("content")
    if content is None and role != "assistant":
        raise Fault(f"{where}.content is missing", param=f"{where}.content")
    # chat templates know no developer: the role is the system's under a later name
    read: ChatMessage = {"role": "system" if role == "developer" else role, "content": _text(content, where)}
    if calls:
        read["tool_calls"] = _read_calls(calls, f"{where}.tool_calls")
    for key in ("tool_call_id", "name"):
        if isinstance(message.get(key), str):
            read[key] = message[key]
    return read


def _text(content: object, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise Fault(f"{where}.content must be a text or text parts; this model reads text only", param=where)
    return "".join(str(text) for text in texts)


def _read_calls(calls: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise Fault(f"{where} must be a list", param=where)
    read: list[dict[str, Any]] = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Fault(f"{where}: a call needs a function with a name", param=where)
        entry: dict[str, Any] = {"type": "function", "function": _read_function(function)}
        if isinstance(call.get("id"), str):
            entry["id"] = call["id"]
        read.append(entry)
    return read


def _read_function(function: dict[str, Any]) -> dict[str, Any]:
    """Arguments come as JSON text; a template gets the object that it says, or the text where it is none."""
    arguments = function.get("arguments", "{}")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        parsed = arguments
    return {"name": function["name"], "arguments": parsed if isinstance(parsed, dict) else arguments}
