"""The generator tool_use: what the model is told after its calls, what is trained on, and how it ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimrl import (
    ChatTemplate,
    PlainTemplate,
    Sample,
    SamplingParams,
    SlimrlError,
    Status,
)
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.generator_checks import CHECKS
from slimrl.testing.samples import make_sample
from slimrl_generators.conversation import Template
from slimrl_generators.tool_format import messages_of
from slimrl_generators.tool_use import ToolUseOptions, open_toolbox, tool_use
from slimrl_generators.tools import Tool, function_tool, shorten

SAMPLING = SamplingParams(max_new_tokens=400, sampling_seed=7)


@pytest.fixture
def function(tool_file: Path) -> Callable[..., Tool]:
    return lambda name, timeout_s=30.0: function_tool(f"{tool_file}:{name}", timeout_s)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def pending(prompt: Any = "What is 3 + 4?", **metadata: Any) -> Sample:
    return make_sample("", "7", metadata, prompt, status=Status.PENDING)


def fill(
    tools: list[Tool],
    template: Template,
    engine: FakeEngine,
    sample: Sample | None = None,
    *,
    sampling: SamplingParams = SAMPLING,
    **options: Any,
) -> Sample:
    generate = tool_use(tools, lambda: template, ToolUseOptions(**options))
    found = asyncio.run(generate(sample or pending(), sampling, engine))
    assert isinstance(found, Sample)
    return found


def told(sample: Sample) -> list[str]:
    """What the model was told after its calls."""
    return [m["content"] for m in sample.metadata["tool_use"]["messages"] if m["role"] != "assistant"]


def shown(tokens: Any) -> str:
    """Tokens of the byte tokenizer as text: token 256 is <, the end token >."""
    return "".join("<" if token == 256 else ">" if token == 0 else chr(token) for token in tokens)


def test_the_model_goes_on_with_what_its_program_printed(python: Tool, template: ChatTemplate) -> None:
    engine = FakeEngine(["```python\nprint(6 * 7)\n```", "It is 42."])
    sample = fill([python], template, engine, tool_format="python")
    between = "\n<user\n```output\n42\n```>\n<assistant\n"
    assert shown(sample.tokens) == f"```python\nprint(6 * 7)\n```>{between}It is 42.>"
    assert shown(t for t, mask in zip(sample.tokens, sample.loss_mask, strict=True) if not mask) == between
    assert list(engine.requests[1].input_ids) == [*sample.prompt_tokens, *sample.tokens[: -len("It is 42.>")]]
    assert sample.status is Status.COMPLETED
    assert (sample.metadata["tool_calls"], sample.metadata["tool_errors"]) == (1, 0)


def test_the_prompt_shows_the_tools_and_answers_are_the_tools(function, template: ChatTemplate) -> None:
    engine = FakeEngine([call("add", a=3, b=4), "7"])
    sample = fill([function("add")], template, engine)
    prompt = shown(sample.prompt_tokens)
    assert prompt.startswith(
        '<tools\n{"type": "function", "function": {"name": "add", "description": "Add two numbers."'
    )
    assert prompt.endswith("<user\nWhat is 3 + 4?>\n<assistant\n")
    assert "\n<tool\n7>\n<assistant\n" in shown(sample.tokens)
    assert list(engine.requests[0].input_ids) == sample.prompt_tokens


def test_a_template_without_tools_has_them_in_the_systems_message(function, template: ChatTemplate) -> None:
    plain = deepcopy(template)
    plain._tokenizer.chat_template = plain._tokenizer.chat_template.replace("{% if tools %}", "{% if false %}")
    sample = fill([function("add")], plain, FakeEngine([call("add", a=3), "4"]))
    prompt = shown(sample.prompt_tokens)
    assert prompt.startswith("<system\nYou can call tools.")
    assert '"name": "add"' in prompt
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]
    sample = fill([function("add")], plain, FakeEngine(["4"]), pending(messages))
    assert shown(sample.prompt_tokens).startswith("<system\nBe brief.\n\nYou can call tools.")
    assert sample.prompt == messages


def test_several_calls_of_a_reply_run_at_once_and_are_answered_in_order(function, template: ChatTemplate) -> None:
    calls = [call("wait", seconds=0.4), call("sleep", seconds=0.4), call("add", a=1)]
    started = time.monotonic()
    sample = fill(
        [function("wait"), function("sleep"), function("add")], template, FakeEngine(["\n".join(calls), "ok"])
    )
    assert time.monotonic() - started < 0.8
    assert told(sample) == ["waited", "slept", "2"]
    assert sample.metadata["tool_calls"] == 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (call("mul", a=3), "Error: there is no tool 'mul'; there is: add, fail, wait."),
        (call("add"), "Error: missing a required argument: 'a'."),
        (call("add", a=1, c=2), "Error: got an unexpected keyword argument 'c'."),
        (call("add", a="x"), 'Error: TypeError: can only concatenate str (not "int") to str'),
        (call("fail", how="badly"), "Error: LookupError: badly"),
        (call("wait", seconds=9), "Error: no answer within 0.2 s."),
        ("<tool_call>add 3</tool_call>", "Error: what stands between <tool_call> and </tool_call> is no call; "),
    ],
)
def test_what_the_model_does_wrong_is_told_to_it(function, template: ChatTemplate, reply: str, said: str) -> None:
    tools = [function(name, 0.2) for name in ("add", "fail", "wait")]
    sample = fill(tools, template, FakeEngine([reply, "I see."]))
    assert told(sample)[0].startswith(said)
    assert sample.status is Status.COMPLETED
    assert (sample.metadata["tool_calls"], sample.metadata["tool_errors"]) == (1, 1)


@pytest.mark.parametrize(
    ("how", "reason"), [("offline", "the index is offline"), ("set", "returned neither a text nor JSON")]
)
def test_what_the_model_is_not_to_blame_for_fails_the_sample(function, template, how: str, reason: str) -> None:
    with pytest.raises(SlimrlError, match=reason):
        fill([function("fail")], template, FakeEngine([call("fail", how=how), "ok"]))


def test_arguments_of_python_are_a_program_and_nothing_else(python: Tool, template: ChatTemplate) -> None:
    replies = [
        call("python", program="1"),
        call("python", code=1),
        call("python", code="1 / 0"),
        call("python", code=""),
    ]
    sample = fill([python], template, FakeEngine([*replies, "ok"]), tool_format="hermes")
    assert [text.startswith("Error: python takes the argument code") for text in told(sample)] == [
        True,
        True,
        False,
        False,
    ]
    assert told(sample)[2].endswith("ZeroDivisionError: division by zero")
    assert told(sample)[3] == "[no output]"
    assert (sample.metadata["tool_calls"], sample.metadata["tool_errors"]) == (4, 3)


def test_a_sample_that_only_calls_is_truncated_and_its_last_call_is_not_run(function, template: ChatTemplate) -> None:
    engine = FakeEngine(call("add", a=1))
    sample = fill([function("add")], template, engine, max_tool_turns=2)
    assert sample.status is Status.TRUNCATED
    assert len(engine.requests) == 3
    assert sample.metadata["tool_calls"] == 2
    assert sample.loss_mask[-1] == 1


def test_calls_beyond_so_many_of_one_reply_are_not_run(function, template: ChatTemplate) -> None:
    engine = FakeEngine([call("add", a=1) * 18, "ok"])
    sample = fill([function("add")], template, engine, sampling=replace(SAMPLING, max_new_tokens=4000))
    assert told(sample) == ["2"] * 16 + ["Error: one reply may call 16 tools."] * 2


def test_a_reply_that_its_length_cut_is_the_last_and_calls_nothing(python: Tool, template: ChatTemplate) -> None:
    engine = FakeEngine("```python\nprint(6 * 7)\n```" + "?" * 500)
    sample = fill([python], template, engine, tool_format="python", sampling=replace(SAMPLING, max_new_tokens=40))
    assert sample.status is Status.TRUNCATED
    assert sample.metadata["tool_calls"] == 0
    assert len(sample.tokens) == 40


def test_an_answer_that_does_not_fit_the_context_is_not_told(function, template: ChatTemplate) -> None:
    script, sample = [call("add", a=1), "2"], pending()
    fill([function("add")], template, FakeEngine(script), sample)
    room = len(sample.prompt_tokens) + len(script[0]) + 5
    sample = fill([function("add")], template, FakeEngine(script), sampling=replace(SAMPLING, max_context_len=room))
    assert sample.status is Status.TRUNCATED
    assert set(sample.loss_mask) == {1}


def test_a_row_names_the_tools_that_its_sample_may_call(function, template: ChatTemplate) -> None:
    add, wait = function("add"), function("wait")
    sample = pending(tools=[add.schema])
    before = list(sample.prompt_tokens)
    fill([add, wait], template, FakeEngine([call("wait", seconds=0), "ok"]), sample)
    assert told(sample) == ["Error: there is no tool 'wait'; there is: add."]
    assert sample.prompt_tokens == before, "the data source has rendered it with the row's tools"
    with pytest.raises(SlimrlError, match=r"the row names the tools search, which are not among --tool-path \(add\)"):
        fill([add], template, FakeEngine("ok"), pending(tools=[{"type": "function", "function": {"name": "search"}}]))
    with pytest.raises(SlimrlError, match="has no name"):
        fill([add], template, FakeEngine("ok"), pending(tools=[{"type": "function"}]))


def test_auto_is_a_block_of_code_only_where_nothing_else_can_be_called(function, python, template) -> None:
    def auto(*tools: Tool, template: Template = template) -> tuple[str, str]:
        box = open_toolbox(tools, template, ToolUseOptions())
        return box.format, box.role

    silent = deepcopy(template)
    silent._tokenizer.chat_template = silent._tokenizer.chat_template.replace("{% if tools %}", "{% if false %}")
    strict = deepcopy(template)
    strict._tokenizer.chat_template = "{{ messages[2] and raise_exception('no tools') }}{{ tools }}"
    assert auto(python) == ("hermes", "tool")
    assert auto(python, template=silent) == ("python", "user")
    assert auto(python, function("add"), template=silent) == ("hermes", "tool")
    assert auto(function("add"), template=strict) == ("hermes", "user")
    assert auto(python, template=PlainTemplate(template._tokenizer)) == ("python", "user")


def test_answers_in_the_users_name_are_one_message(function, template: ChatTemplate) -> None:
    engine = FakeEngine([call("add", a=1) + call("add", a=2), "ok"])
    sample = fill([function("add")], template, engine, tool_role="user")
    assert told(sample) == ["<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>"]


def test_plain_prompts_go_on_as_plain_text(python: Tool, template: ChatTemplate) -> None:
    engine = FakeEngine(["```python\n6 * 7\n```", " 42"])
    sample = fill([python], PlainTemplate(template._tokenizer), engine)
    assert sample.response == "```python\n6 * 7\n```\n```output\n42\n```\n 42"
    assert shown(sample.prompt_tokens) == "What is 3 + 4?"


def test_a_long_answer_loses_its_middle() -> None:
    assert shorten("x" * 100, 100) == "x" * 100
    assert shorten("a" * 60 + "b" * 60, 100) == f"{'a' * 50}\n[20 characters left out]\n{'b' * 50}"


def test_a_sample_that_was_cut_off_between_reply_and_answer_goes_on_there(function, template: ChatTemplate) -> None:
    sample = pending()
    generate = tool_use([function("wait")], lambda: template, ToolUseOptions())

    async def cut_off() -> None:
        work = asyncio.ensure_future(generate(sample, SAMPLING, FakeEngine(call("wait", seconds=60))))
        await asyncio.sleep(0.1)
        assert sample.tokens
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(cut_off())
    assert sample.status is Status.ABORTED
    assert sample.metadata["tool_calls"] == 0
    before = len(sample.tokens)
    instead = replace(function("wait"), run=function("add").run)
    engine = FakeEngine(["ok"])
    fill([instead], template, engine, sample)
    assert len(engine.requests) == 1
    assert sample.metadata["tool_calls"] == 1
    assert shown(sample.tokens[before:]).startswith("\n<tool\n")
    assert sample.status is Status.COMPLETED


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_passes_the_checks_of_generators(check, python: Tool, template: ChatTemplate) -> None:
    generate = tool_use([python], lambda: template, ToolUseOptions(tool_format="python"))
    finding = check.find(generate)
    assert finding.outcome == "ok", finding.detail


def test_smollm2_uses_blocks_of_code_and_its_template_goes_on(small_model: Path, python: Tool) -> None:
    template = ChatTemplate.open(small_model)
    box = open_toolbox([python], template, ToolUseOptions())
    assert (box.format, box.role, box.shows_tools) == ("python", "user", False)
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "```python\n1\n```"}]
    answer = messages_of([("python", "1")], box.format, box.role, is_plain=False)
    tail = template.tail([*messages, *answer], 2, [], -1)
    assert tail is not None
    assert tail[1] == "<|im_end|>\n<|im_start|>user\n```output\n1\n```<|im_end|>\n<|im_start|>assistant\n"
