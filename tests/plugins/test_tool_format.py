"""Calls in a reply: as Hermes writes them, and as blocks of code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slimrl_generators.tool_format import read_calls


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize(
    ("reply", "names", "malformed"),
    [
        ("Seven.", [], 0),
        (f"Let me see. {call('add', a=3)}", ["add"], 0),
        (f"{call('add', a=3)}\n{call('wait')}", ["add", "wait"], 0),
        ('<tool_call>{"name": "add", "arguments": {}}', ["add"], 0),
        ("<tool_call>add(3, 4)</tool_call>", [], 1),
        (f"{call('add', a=3)}<tool_call>[]</tool_call><tool_call>", ["add"], 2),
        ("```python\nprint(3)\n```", [], 0),
    ],
)
def test_calls_as_hermes(reply: str, names: list[str], malformed: int) -> None:
    calls, found = read_calls(reply, "hermes")
    assert ([one.name for one in calls], found) == (names, malformed)


@pytest.mark.parametrize(
    ("reply", "programs"),
    [
        ("Seven.", []),
        ("So:\n```python\nprint(3)\n```\nand\n```py\n4\n```", ["print(3)\n", "4\n"]),
        ("```python3\nprint(3)", ["print(3)"]),
        ("```python print(3)```", ["print(3)"]),
        ("```output\n3\n```\n```pycon\n>>> 3\n```\n```\n3\n```", []),
        ("```python\n```", [""]),
        (call("python", code="3"), []),
    ],
)
def test_calls_as_blocks_of_code(reply: str, programs: list[str]) -> None:
    calls, malformed = read_calls(reply, "python")
    assert [json.loads(one.arguments) for one in calls] == [{"code": program} for program in programs]
    assert malformed == 0
