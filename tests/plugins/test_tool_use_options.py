"""How tool_use is made: of which options, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimrl import (
    SamplingParams,
    Status,
    UsageError,
)
from slimrl.cli import check as check_command
from slimrl.config import CkptConfig, RolloutConfig
from slimrl.registry.options import Options
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.samples import make_sample
from slimrl.traits import does_continue
from slimrl_generators.python_tool import PythonToolOptions
from slimrl_generators.tool_use import ToolUseOptions, make


@pytest.fixture
def made(byte_checkpoint: Path) -> Callable[..., Any]:
    def make_it(*own: object, apply_chat_template: bool = True) -> Any:
        given = [ToolUseOptions(), PythonToolOptions(), CkptConfig(hf_checkpoint=byte_checkpoint)]
        rollout = RolloutConfig(apply_chat_template=apply_chat_template)
        return make(Options({type(one): one for one in [*given, rollout, *own]}.values()))

    return make_it


def test_it_is_made_with_python_where_nothing_is_said_and_goes_on_with_samples(made) -> None:
    generate = made()
    assert does_continue(generate)
    sample = make_sample("", "7", {}, "What is 3 + 4?", status=Status.PENDING)
    asyncio.run(
        generate(
            sample,
            SamplingParams(max_new_tokens=400, sampling_seed=7),
            FakeEngine(['<tool_call>{"name": "python", "arguments": {"code": "6 * 7"}}</tool_call>', "42"]),
        )
    )
    assert [m["content"] for m in sample.metadata["tool_use"]["messages"] if m["role"] == "tool"] == ["42"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([ToolUseOptions(tool_path=())], "tool_use needs a tool"),
        ([ToolUseOptions(tool_path=("FILE:nothing",))], "--tool-path .*nothing"),
        ([ToolUseOptions(tool_path=("FILE:number",))], "is 7, no function"),
        ([ToolUseOptions(tool_path=("FILE:undocumented",))], "no tool without a type and a line of the docstring"),
        ([ToolUseOptions(tool_path=("FILE:add", "FILE:add"))], "two tools of one name: add, add"),
        ([ToolUseOptions(tool_path=("python", "FILE:add"), tool_format="python")], "calls no tool but python"),
        ([ToolUseOptions(tool_timeout_s=3.0)], "--python-tool-timeout-s"),
        ([ToolUseOptions(tool_path=("FILE:add",)), PythonToolOptions(3.0)], "do nothing without the tool python"),
        ([CkptConfig()], "--hf-checkpoint"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(made, tool_file: Path, options: list[Any], problem: str) -> None:
    own = [
        replace(one, tool_path=tuple(path.replace("FILE", str(tool_file)) for path in one.tool_path))
        if isinstance(one, ToolUseOptions)
        else one
        for one in options
    ]
    with pytest.raises(UsageError, match=problem):
        made(*own)


def test_a_role_without_a_chat_template_is_refused(made) -> None:
    with pytest.raises(UsageError, match="--tool-role user: without --apply-chat-template"):
        made(ToolUseOptions(tool_role="user"), apply_chat_template=False)


@pytest.mark.parametrize("name", ["max_tool_turns", "tool_output_chars", "tool_timeout_s"])
def test_impossible_options_are_refused_by_their_flag(name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} 0 must be at least"):
        ToolUseOptions(**{name: 0})


def test_slimrl_check_finds_nothing(byte_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tool-format", "python", "--hf-checkpoint", str(byte_checkpoint)]
    assert check_command.main(["tool_use", *flags]) == 0
    assert "0 warnings, 0 failures\n" in capsys.readouterr().out
