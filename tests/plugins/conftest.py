"""A conversation of the generator multi_turn, as its tests hold one; tools for tests of tool_use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl import Sample, SamplingParams, Status
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.samples import make_sample
from slimrl_generators.conversation import Template
from slimrl_generators.multi_turn import multi_turn
from slimrl_generators.python_tool import PythonTool, PythonToolOptions
from slimrl_generators.tools import Tool, python_tool
from slimrl_generators.user_function import outside

TOOLS = '''
import asyncio, time
import slimrl

def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b

async def wait(seconds: float) -> str:
    """Wait.

    Args:
        seconds: how long
    """
    await asyncio.sleep(seconds)
    return "waited"

def sleep(seconds: float) -> str:
    """Sleep.

    Args:
        seconds: how long
    """
    time.sleep(seconds)
    return "slept"

def fail(how: str) -> object:
    """Fail.

    Args:
        how: in what way
    """
    if how == "offline":
        raise slimrl.SlimrlError("the index is offline")
    if how == "set":
        return {1, 2}
    raise LookupError(how)

def undocumented(a):
    return a

number = 7
'''


class Conversation:
    """Holds conversations, and what is said and read in many of them."""

    SAMPLING = SamplingParams(max_new_tokens=60, sampling_seed=7)

    @staticmethod
    def ask_twice(sample: Sample, reply: str) -> str | None:
        """Doubts the first reply."""
        sample.metadata["seen"] = [*sample.metadata.get("seen", []), reply]
        return "Sure?" if len(sample.metadata["seen"]) < 2 else None

    @staticmethod
    def doubt(sample: Sample, reply: str) -> str:
        return "No."

    @staticmethod
    def pending(**metadata: Any) -> Sample:
        return make_sample("", "7", metadata, status=Status.PENDING)

    @staticmethod
    def fill(
        template: Template,
        environment: Callable[..., Any],
        engine: FakeEngine,
        sample: Sample | None = None,
        *,
        sampling: SamplingParams = SAMPLING,
        max_turns: int = 8,
        timeout_s: float = 30,
    ) -> Sample:
        generate = multi_turn(outside(environment), lambda: template, max_turns, timeout_s)
        found = asyncio.run(generate(sample or Conversation.pending(), sampling, engine))
        assert isinstance(found, Sample)
        return found

    @staticmethod
    def parts(sample: Sample) -> list[tuple[int, str]]:
        """The runs of equal loss mask, each with its text; token 256 is shown as <."""
        found: list[tuple[int, str]] = []
        for token, mask in zip(sample.tokens, sample.loss_mask, strict=True):
            shown = "<" if token == 256 else ">" if token == 0 else chr(token)
            if found and found[-1][0] == mask:
                found[-1] = (mask, found[-1][1] + shown)
            else:
                found.append((mask, shown))
        return found


@pytest.fixture(scope="session")
def conversation() -> type[Conversation]:
    """Everything that tests of multi_turn share."""
    return Conversation


@pytest.fixture(scope="session")
def tool_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions that are tools, and some that cannot be."""
    path = tmp_path_factory.mktemp("tools") / "tools.py"
    path.write_text(TOOLS)
    return path


@pytest.fixture(scope="session")
def python() -> Tool:
    """The tool python."""
    return python_tool(PythonTool.open(PythonToolOptions(python_tool_timeout_s=60)))
