"""The generator tool_use: which calls it reads, what the model is told, what is trained on, and how it ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimrl import (
    ChatTemplate,
    Completion,
    PlainTemplate,
    Sample,
    SamplingParams,
    SlimrlError,
    Status,
    UsageError,
    load_target,
)
from slimrl.cli import check as check_command
from slimrl.config import CkptConfig, RolloutConfig
from slimrl.registry.options import Options
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.generator_checks import CHECKS
from slimrl.testing.samples import make_sample
from slimrl.traits import does_continue
from slimrl_generators.conversation import Template
from slimrl_generators.python_tool import PythonTool, PythonToolOptions
from slimrl_generators.tool_format import messages_of, read_calls
from slimrl_generators.tool_use import ToolUseOptions, make, open_toolbox, tool_use
from slimrl_generators.tools import Tool, function_tool, python_tool, shorten

EXAMPLE = Path(__file__).parents[2] / "examples" / "tool_use"
SAMPLING = SamplingParams(max_new_tokens=400, sampling_seed=7)
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


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "tools.py"
    path.write_text(TOOLS)
    return path


@pytest.fixture
def function(file: Path) -> Callable[..., Tool]:
    return lambda name, timeout_s=30.0: function_tool(f"{file}:{name}", timeout_s)


@pytest.fixture(scope="module")
def python() -> Tool:
    return python_tool(PythonTool.open(PythonToolOptions(python_tool_timeout_s=60)))


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
    sample = pending()
    asyncio.run(generate(sample, SAMPLING, FakeEngine([call("python", code="6 * 7"), "42"])))
    assert told(sample) == ["42"]


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
def test_what_cannot_work_is_refused_at_the_start(made, file: Path, options: list[Any], problem: str) -> None:
    own = [
        replace(one, tool_path=tuple(path.replace("FILE", str(file)) for path in one.tool_path))
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


def test_smollm2_uses_blocks_of_code_and_its_template_goes_on(small_model: Path, python: Tool) -> None:
    template = ChatTemplate.open(small_model)
    box = open_toolbox([python], template, ToolUseOptions())
    assert (box.format, box.role, box.shows_tools) == ("python", "user", False)
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "```python\n1\n```"}]
    answer = messages_of([("python", "1")], box.format, box.role, is_plain=False)
    tail = template.tail([*messages, *answer], 2, [], -1)
    assert tail is not None
    assert tail[1] == "<|im_end|>\n<|im_start|>user\n```output\n1\n```<|im_end|>\n<|im_start|>assistant\n"


def test_slimrl_check_finds_nothing(byte_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tool-format", "python", "--hf-checkpoint", str(byte_checkpoint)]
    assert check_command.main(["tool_use", *flags]) == 0
    assert "0 warnings, 0 failures\n" in capsys.readouterr().out


def example(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLE / f"{name}.jsonl").read_text().splitlines()]


def test_the_examples_data_is_what_its_script_writes_and_asks_nothing_twice() -> None:
    before = example("train"), example("test")
    subprocess.run([sys.executable, str(EXAMPLE / "make_data.py")], check=True, timeout=60)
    assert (example("train"), example("test")) == before
    questions = [row["input"][-1]["content"] for row in before[0] + before[1]]
    assert len(set(questions)) == len(questions)


def test_the_example_can_only_be_won_with_a_call(python: Tool, template: ChatTemplate) -> None:
    _, score = load_target(f"{EXAMPLE}/reward.py:score", "--custom-rm-path")

    def earned(*replies: str) -> float:
        sample = make_sample("", 1035, {}, "What is 23 * 45?", status=Status.PENDING)
        return score(fill([python], template, FakeEngine(replies), sample, tool_format="python", max_tool_turns=1))

    assert earned("```python\nprint(23 * 45)\n```", "It is 1035") == 1.0
    assert earned("```python\nprint(23 * 45)\n```", "It is 1036") == 0.0
    assert earned("It is 1035") == earned("```python\n1035", "```python\n1035") == 0.0


def test_a_real_model_works_products_out_in_python(small_model: Path, python: Tool) -> None:
    from slimrl.engines.embedded.engine import Engine
    from slimrl.engines.embedded.options import EngineOptions
    from slimrl.engines.embedded.params import Sampling
    from slimrl.engines.embedded.request import Request

    template = ChatTemplate.open(small_model)
    engine = Engine(EngineOptions(small_model, random_seed=0))

    class Client(FakeEngine):
        async def generate(self, input_ids: Sequence[int], sampling: SamplingParams, **kwargs: Any) -> Completion:
            request = Request("r", tuple(input_ids), Sampling(max_new_tokens=24, temperature=0.0), seed=0)
            engine.generate([request])
            tokens = request.output_ids
            return Completion(tokens, request.log_probs, [0] * len(tokens), template.text(tokens), "stop")

    _, score = load_target(f"{EXAMPLE}/reward.py:score", "--custom-rm-path")
    try:
        for row in example("test")[:3]:
            prompt_tokens = template.render(row["input"], [])
            sample = Sample(0, 0, 0, row["input"], prompt_tokens, row["label"], {})
            fill([python], template, Client(), sample, max_tool_turns=1)
            assert sample.prompt_tokens == prompt_tokens
            if score(sample) == 1.0:
                break
    finally:
        engine.close()
    assert score(sample) == 1.0
