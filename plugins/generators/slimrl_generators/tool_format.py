"""How a model writes a call of a tool, and how it is told what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from slimrl import ToolCall, split_tool_calls

Format = Literal["hermes", "python"]
Role = Literal["tool", "user"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FENCED: Final = re.compile(r"```(?:python3?|py)\b[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)

MALFORMED: Final = (
    f"Error: what stands between {OPEN} and {CLOSE} is no call; write one JSON object with a name and arguments there."
)
HOW_TO_CALL: Final = """\
You can call tools. A call is a JSON object with the tool's name and its arguments between tags:
<tool_call>
{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}
</tool_call>
These are the tools:"""


def read_calls(reply: str, how: Format) -> tuple[list[ToolCall], int]:
    """The calls in a reply, and how many more it tried to make; the last one may lack its end, a stop text."""
    if how == "python":
        programs = FENCED.findall(reply)
        return [ToolCall("python", json.dumps({"code": program})) for program in programs], 0
    is_open = reply.rfind(OPEN) > reply.rfind(CLOSE)
    rest, calls = split_tool_calls(reply + CLOSE if is_open else reply)
    return calls, rest.count(OPEN)


def messages_of(
    answers: Sequence[tuple[str, str]], how: Format, role: Role, *, is_plain: bool
) -> list[dict[str, Any]]:  # Any: JSON
    """What came of calls, by the tools' names, as the messages behind the reply; nothing stands around a plain one."""
    if role == "tool":
        return [{"role": "tool", "name": name, "content": text} for name, text in answers]
    shown = [
        f"```output\n{text}\n```" if how == "python" else f"<tool_response>\n{text}\n</tool_response>"
        for _, text in answers
    ]
    content = "\n".join(shown)
    return [{"role": "user", "content": f"\n{content}\n" if is_plain else content}]


def describe(messages: Sequence[Mapping[str, Any]], schemas: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with its tools told in the system's message, for a template that does not show them."""
    told = "\n".join([HOW_TO_CALL, *(json.dumps(schema, ensure_ascii=False) for schema in schemas)])
    first, *others = [dict(message) for message in messages]
    if first.get("role") != "system":
        return [{"role": "system", "content": told}, first, *others]
    return [{**first, "content": f"{first['content']}\n\n{told}"}, *others]
