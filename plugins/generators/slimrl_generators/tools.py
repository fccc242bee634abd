"""Tools that a model may call: functions of a user's, and Python."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slimrl import SlimrlError, ToolCall, UsageError
from slimrl_generators.python_tool import PythonTool
from slimrl_generators.user_function import load_function, outside

PYTHON: Final = "python"
NO_OUTPUT: Final = "[no output]"


@dataclass(frozen=True)
class Answer:
    """What the model is told of one call."""

    text: str
    is_ok: bool = True


@dataclass(frozen=True)
class Tool:
    """Something that a model calls by its name with a JSON object."""

    schema: dict[str, Any]
    """In OpenAI's form, as chat templates take it: JSON."""
    run: Callable[[dict[str, Any]], Awaitable[Answer]]
    """SlimrlError where it fails and the model is not to blame."""

    @property
    def name(self) -> str:
        """What the model calls it."""
        return name_of(self.schema)


def name_of(schema: dict[str, Any]) -> str:
    """A tool's name in its schema; SlimrlError where there is none."""
    function = schema.get("function", schema)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise SlimrlError(f"the tool {json.dumps(schema)[:200]} has no name")
    return name


def python_tool(python: PythonTool) -> Tool:
    """The tool `python`: its only argument is a program."""

    async def run(arguments: dict[str, Any]) -> Answer:
        if arguments.keys() != {"code"} or not isinstance(arguments["code"], str):
            return Answer(f"Error: {PYTHON} takes the argument code, a text, and no other.", False)
        ran = await python.run(arguments["code"])
        return Answer(ran.output, ran.is_ok)

    return Tool(
        {
            "type": "function",
            "function": {
                "name": PYTHON,
                "description": "Run a Python program and return what it prints. The value of an expression in its last "
                "line is printed too. Nothing is kept from one call to the next.",
                "parameters": {
                    "type": "object",
                    "properties": {"code": {"type": "string", "description": "The program."}},
                    "required": ["code"],
                },
            },
        },
        run,
    )


def function_tool(reference: str, timeout_s: float) -> Tool:
    """A user's function as a tool; UsageError where it has no types and docstring to make a schema of."""
    from transformers.utils import get_json_schema

    function = load_function("--tool-path", reference)
    try:
        schema = get_json_schema(function)
        signature = inspect.signature(function)
    except Exception as error:  # a user's edge: it may be anything that can be called
        raise UsageError(
            f"--tool-path {reference}: no tool without a type and a line of the docstring for every argument: {error}"
        ) from error
    call = outside(function)

    async def run(arguments: dict[str, Any]) -> Answer:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            return Answer(f"Error: {error}.", False)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                returned = await call(**arguments)
        except SlimrlError:
            raise
        except Exception as error:  # a user's edge: what a tool raises is what the model learns from
            if isinstance(error, TimeoutError) and deadline.expired():
                return Answer(f"Error: no answer within {timeout_s:g} s.", False)
            return Answer(f"Error: {type(error).__name__}: {error}", False)
        if isinstance(returned, str):
            return Answer(returned)
        try:
            return Answer(json.dumps(returned, ensure_ascii=False))
        except (TypeError, ValueError) as error:
            raise SlimrlError(f"the tool {reference} returned neither a text nor JSON: {error}") from error

    return Tool(schema, run)


async def answer(call: ToolCall, tools: Sequence[Tool], max_chars: int) -> Answer:
    """Run one call; whatever the model did wrong is told to it."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        names = ", ".join(tool.name for tool in tools)
        return Answer(f"Error: there is no tool {call.name!r}; there is: {names}.", False)
    found = await tool.run(json.loads(call.arguments))
    return Answer(shorten(found.text.strip("\n") or NO_OUTPUT, max_chars), found.is_ok)


def shorten(text: str, max_chars: int) -> str:
    """A text with its middle left out where it is too long: the end of a traceback says most."""
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
