"""Tools: what the model calls in a reply is run, and it goes on with what came of it, until it calls nothing more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from slimrl import (
    ChatTemplate,
    EngineClient,
    Factory,
    Generate,
    PluginOptions,
    Sample,
    SamplingParams,
    SlimrlError,
    Status,
    ToolCall,
    UsageError,
    absolute_reference,
    continues_samples,
    hookimpl,
)
from slimrl.config import RolloutConfig
from slimrl_generators.conversation import Conversation, Template, open_template
from slimrl_generators.python_tool import PythonTool, PythonToolOptions
from slimrl_generators.tool_format import MALFORMED, Format, Role, describe, messages_of, read_calls
from slimrl_generators.tools import PYTHON, Answer, Tool, answer, function_tool, name_of, python_tool

logger = logging.getLogger(__name__)

NAME: Final = "tool_use"
MAX_CALLS: Final = 16
"""In one reply; more are answered with an error."""
DEFAULT_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class ToolUseOptions:
    """Options of the generator `tool_use`."""

    tool_path: tuple[str, ...] = (PYTHON,)
    """The tools: `python`, a sandbox for programs, and functions as `pkg.mod:attr` or `path/to/file.py:attr`, sync or async, with types and a docstring that describes every argument (Google's style)."""  # noqa: E501  # a field's help is one line
    tool_format: Literal["auto", "hermes", "python"] = "auto"
    """How the model writes a call: `hermes`, JSON between <tool_call> tags, or `python`, a fenced block of code. `auto`: python where that is the only tool and the chat template shows no tools, else hermes."""  # noqa: E501
    tool_role: Literal["auto", "tool", "user"] = "auto"
    """Whose message a tool's answer is. `auto`: the tool's where calls are written as hermes and the chat template has such messages, else the user's."""  # noqa: E501
    max_tool_turns: int = 8
    """Replies with calls at most; a sample that calls once more is truncated."""
    tool_output_chars: int = 4096
    """Characters of a tool's answer that the model is told; the middle of a longer one is left out."""
    tool_timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds until a function that has not answered is given up, and the model is told so. For programs: --python-tool-timeout-s."""  # noqa: E501

    def __post_init__(self) -> None:
        for name, least in (("max_tool_turns", 1), ("tool_output_chars", 64), ("tool_timeout_s", 0.001)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value:g} must be at least {least:g}")
        object.__setattr__(self, "tool_path", tuple(absolute_reference(path) for path in self.tool_path))


@dataclass(frozen=True)
class Toolbox:
    """The tools, and how the model is told of them."""

    tools: Sequence[Tool]
    template: Template
    format: Format
    role: Role
    shows_tools: bool
    """Whether the chat template renders tools by itself."""
    max_turns: int
    max_chars: int

    def of(self, sample: Sample) -> list[Tool]:
        """The tools that a sample may call: all, or those that its row names; SlimrlError for one that is not there."""
        rows = sample.metadata.get("tools")
        if not rows:
            return list(self.tools)
        names = {name_of(schema) for schema in rows}
        if missing := names - {tool.name for tool in self.tools}:
            raise SlimrlError(
                f"the row names the tools {', '.join(sorted(missing))}, which are not among --tool-path "
                f"({', '.join(tool.name for tool in self.tools)})"
            )
        return [tool for tool in self.tools if tool.name in names]

    def schemas(self, sample: Sample) -> list[dict[str, Any]]:
        """The tools that a sample's prompt shows."""
        if self.format == "python":
            return sample.metadata.get("tools") or []
        return sample.metadata.get("tools") or [tool.schema for tool in self.tools]

    def show(self, sample: Sample) -> None:
        """Render the prompt of a sample with its tools, where the data source could not."""
        if self.format == "python" or not isinstance(self.template, ChatTemplate):
            return
        if sample.tokens or (self.shows_tools and sample.metadata.get("tools")):
            return
        prompt = sample.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(one) for one in prompt]
        schemas = self.schemas(sample)
        if not self.shows_tools:
            messages, schemas = describe(messages, schemas), []
        sample.prompt_tokens = self.template.render(messages, schemas)


def make(options: PluginOptions) -> Generate:
    """The generator; UsageError for a tool that is none, and for options that would do nothing."""
    own, python = options[ToolUseOptions], options[PythonToolOptions]
    _refuse(own, python, options[RolloutConfig].apply_chat_template)
    tools = [
        python_tool(PythonTool.open(python)) if path == PYTHON else function_tool(path, own.tool_timeout_s)
        for path in own.tool_path
    ]
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise UsageError(f"--tool-path: two tools of one name: {', '.join(names)}")
    return tool_use(tools, open_template(options, NAME), own)


def _refuse(own: ToolUseOptions, python: PythonToolOptions, has_roles: bool) -> None:
    only_python = own.tool_path == (PYTHON,)
    if not own.tool_path:
        raise UsageError(f"tool_use needs a tool: give --tool-path {PYTHON} or --tool-path FILE.py:attr")
    if own.tool_format == "python" and not only_python:
        raise UsageError(
            "--tool-format python: a block of code calls no tool but python; leave out the others, or "
            "--tool-format hermes"
        )
    if own.tool_role != "auto" and not has_roles:
        raise UsageError(f"--tool-role {own.tool_role}: without --apply-chat-template there are no roles; leave it out")
    if only_python and own.tool_timeout_s != DEFAULT_TIMEOUT_S:
        raise UsageError("--tool-timeout-s is for functions; the time of programs is --python-tool-timeout-s")
    if PYTHON not in own.tool_path and python != PythonToolOptions():
        raise UsageError(f"the --python-tool flags do nothing without the tool {PYTHON}: add it to --tool-path")


def tool_use(tools: Sequence[Tool], template: Callable[[], Template], options: ToolUseOptions) -> Generate:
    """A generator that lets the model use tools."""

    @cache
    def toolbox() -> Toolbox:
        return open_toolbox(tools, template(), options)

    @continues_samples
    async def generate(sample: Sample, sampling: SamplingParams, engine: EngineClient) -> Sample:
        """Let the model reply and its calls be run, until a reply has none; raises what is not the model's fault."""
        box = toolbox()
        allowed = box.of(sample)
        box.show(sample)
        with Conversation(sample, sampling, engine, box.template, name=NAME, tools=box.schemas(sample)) as talk:
            sample.metadata.setdefault("tool_calls", 0)
            sample.metadata.setdefault("tool_errors", 0)
            await converse(talk, box, allowed)
        return sample

    return generate


async def converse(talk: Conversation, box: Toolbox, tools: Sequence[Tool]) -> None:
    """Reply, calls, answers, and again."""
    sample, is_plain = talk.sample, not isinstance(box.template, ChatTemplate)
    while (reply := await talk.reply()) is not None and sample.status is not Status.TRUNCATED:
        calls, malformed = read_calls(reply, box.format)
        if not calls and not malformed:
            return
        if talk.turns > box.max_turns:
            sample.status = Status.TRUNCATED
            return
        answers = await run_calls(calls[:MAX_CALLS], tools, box.max_chars)
        answers += [Answer(f"Error: one reply may call {MAX_CALLS} tools.", False)] * len(calls[MAX_CALLS:])
        answers += [Answer(MALFORMED, False)] * malformed
        sample.metadata["tool_calls"] += len(answers)
        sample.metadata["tool_errors"] += sum(not one.is_ok for one in answers)
        names = [*(call.name for call in calls), *["error"] * malformed]
        told = [(name, one.text) for name, one in zip(names, answers, strict=True)]
        if not talk.tell(*messages_of(told, box.format, box.role, is_plain=is_plain)):
            return


async def run_calls(calls: Sequence[ToolCall], tools: Sequence[Tool], max_chars: int) -> list[Answer]:
    """What came of calls that ran at once; where one fails the sample, the others are ended."""
    running = [asyncio.ensure_future(answer(call, tools, max_chars)) for call in calls]
    try:
        return await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()


def open_toolbox(tools: Sequence[Tool], template: Template, options: ToolUseOptions) -> Toolbox:
    """The tools as a template and the options have them; what `auto` became is logged."""
    shows_tools = isinstance(template, ChatTemplate) and _shows(template, [tool.schema for tool in tools])
    how, role = options.tool_format, options.tool_role
    if how == "auto":
        how = "python" if not shows_tools and [tool.name for tool in tools] == [PYTHON] else "hermes"
    if role == "auto":
        role = "tool" if how == "hermes" and _has_tool_role(template) else "user"
    logger.info("tools %s, calls as %s, answers as %s", ", ".join(tool.name for tool in tools), how, role)
    return Toolbox(tools, template, how, role, shows_tools, options.max_tool_turns, options.tool_output_chars)


def _shows(template: ChatTemplate, schemas: list[dict[str, Any]]) -> bool:
    messages = [{"role": "user", "content": "?"}]
    try:
        return template.render(messages, schemas) != template.render(messages, [])
    except Exception:  # a template's edge: it may raise whatever it likes
        return False


def _has_tool_role(template: Template) -> bool:
    probe = "a tool's answer"
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!"},
        {"role": "tool", "name": "probe", "content": probe},
    ]
    found = template.tail(messages, 2, [], -1) if isinstance(template, ChatTemplate) else None
    return found is not None and probe in found[1]


@hookimpl
def slimrl_options() -> Sequence[type]:
    """Which tools, how they are called, and what programs may have."""
    return (ToolUseOptions, PythonToolOptions)


@hookimpl
def slimrl_offer_generators() -> Mapping[str, Factory[Generate]]:
    """Offers `tool_use`."""
    return {NAME: make}
