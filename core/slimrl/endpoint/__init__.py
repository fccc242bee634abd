"""An OpenAI-compatible endpoint inside a run: agents act through it, and their turns become trainable samples."""

from __future__ import annotations

from slimrl.endpoint.plain_template import PlainTemplate
from slimrl.endpoint.segment import Segment
from slimrl.endpoint.server import Endpoint
from slimrl.endpoint.session import Session
from slimrl.endpoint.template import ChatTemplate
from slimrl.endpoint.tool_calls import ToolCall, split_tool_calls
from slimrl.endpoint.turn import next_reply

__all__ = [
    "ChatTemplate",
    "Endpoint",
    "PlainTemplate",
    "Segment",
    "Session",
    "ToolCall",
    "next_reply",
    "split_tool_calls",
]
