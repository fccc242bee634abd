"""One request of POST /v1/chat/completions, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from slimrl.endpoint.fault import Fault
from slimrl.endpoint.messages import ChatMessage, read_messages

NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "functions": ([],),
    "modalities": (["text"],),
}
"""Parameters that would change a reply, with the values under which they do not: anything else is refused."""


@dataclass(frozen=True)
class ChatRequest:
    """What a client asked for; None where it leaves the choice to the run."""

    messages: list[ChatMessage]
    tools: list[dict[str, Any]]
    """JSON, handed to the chat template as it is."""
    calls_tools: bool
    """Whether tool calls are looked for in the reply."""
    model: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    logprobs: bool
    stream: bool
    stream_usage: bool


def read_request(body: object) -> ChatRequest:
    """The request in a JSON body; Fault names the parameter that cannot be used."""
    if not isinstance(body, dict):
        raise Fault("the body must be a JSON object")
    for name, values in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in values:
            raise Fault(f"{name}={body[name]!r} is not supported here", param=name, code="unsupported_parameter")
    tools = _read_tools(body.get("tools"))
    choice = body.get("tool_choice") or "auto"
    if choice not in ("none", "auto"):
        raise Fault(f"tool_choice={choice!r} is not supported; use 'auto' or 'none'", param="tool_choice")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Fault("stream_options must be an object", param="stream_options")
    limits = [_whole(body, name, low=1) for name in ("max_completion_tokens", "max_tokens")]
    return ChatRequest(
        messages=read_messages(body.get("messages")),
        tools=tools,
        calls_tools=bool(tools) and choice == "auto",
        model=str(body.get("model") or ""),
        temperature=_number(body, "temperature", 0.0, 2.0),
        top_p=_number(body, "top_p", 0.0, 1.0),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        seed=_whole(body, "seed"),
        stop=_read_stop(body.get("stop")),
        logprobs=body.get("logprobs") is True,
        stream=body.get("stream") is True,
        stream_usage=options.get("include_usage") is True,
    )


def _read_tools(tools: object) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("function"), dict)
        for tool in tools
    ):
        raise Fault("tools must be a list of {'type': 'function', 'function': {...}}", param="tools")
    return tools


def _read_stop(stop: object) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise Fault("stop must be a text or a list of texts, none of them empty", param="stop")
    return tuple(stops)


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:  # JSON
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Fault(f"{name}={value!r} must be a number from {low:g} to {high:g}", param=name)
    return float(value)


def _whole(body: Mapping[str, Any], name: str, low: int | None = None) -> int | None:  # JSON
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        raise Fault(f"{name}={value!r} must be a whole number{'' if low is None else f' from {low} up'}", param=name)
    return value
