"""The generator openai_agent: agents as functions and as processes, and how each way of ending shows in the sample."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from slimrl import Completion, Endpoint, EngineClient, Group, Sample, SamplingParams, SlimrlError, Status, UsageError
from slimrl.config import CkptConfig, RolloutConfig
from slimrl.endpoint import ChatTemplate
from slimrl.errors import EngineError
from slimrl.registry.options import Options
from slimrl.rollout.produce import produce
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.samples import make_sample
from slimrl_generators.openai_agent import Act, AgentOptions, agent_generator, command_agent, make, path_agent

SAMPLING = SamplingParams(max_new_tokens=60, sampling_seed=7)


def pending(sample_id: int = 0) -> Sample:
    return make_sample("", "7", status=Status.PENDING, sample_id=sample_id)


def fill(
    template: ChatTemplate, act: Act, engine: EngineClient, sample: Sample | None = None, timeout_s: float = 30
) -> Sample:
    generate = agent_generator(act, Endpoint(lambda: template, "small"), timeout_s)
    found = asyncio.run(generate(sample or pending(), SAMPLING, engine))
    assert isinstance(found, Sample)
    return found


async def ask(base_url: str, api_key: str, sample: Sample) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": str(sample.prompt)}])


def test_an_agents_turn_is_the_samples_response(template: ChatTemplate) -> None:
    sample = fill(template, ask, FakeEngine("It is 7."))
    assert (sample.response, sample.status) == ("It is 7.", Status.COMPLETED)
    assert len(sample.tokens) == len(sample.log_probs) == len(sample.weight_versions) == sum(sample.loss_mask) == 9
    assert sample.prompt_tokens[0] == 256  # the chat template's, not the data source's
    assert (sample.prompt, sample.label, sample.seed) == ("What is 3 + 4?", "7", 0)


def test_tokens_of_an_earlier_try_are_not_in_the_sample(template: ChatTemplate) -> None:
    sample = pending()
    sample.append([65, 66], [-1.0, -1.0], [0, 0], text="AB")
    assert fill(template, ask, FakeEngine("7"), sample).tokens == [ord("7"), 0]


def test_eight_agents_at_once_are_those_that_act_alone(template: ChatTemplate) -> None:
    async def together() -> list[Sample]:
        generate = agent_generator(ask, Endpoint(lambda: template, "small"), 30)
        return list(await asyncio.gather(*(generate(pending(i), SAMPLING, FakeEngine(seed=i)) for i in range(8))))

    samples = asyncio.run(together())
    alone = [fill(template, ask, FakeEngine(seed=i), pending(i)).tokens for i in range(2)]
    assert [sample.tokens for sample in samples[:2]] == alone


def test_a_reply_cut_by_its_length_and_a_spent_budget_are_truncated(template: ChatTemplate) -> None:
    async def insist(base_url: str, api_key: str, sample: Sample) -> None:
        while True:
            await ask(base_url, api_key, sample)

    assert fill(template, ask, FakeEngine("7 " * 99)).status is Status.TRUNCATED
    assert fill(template, insist, FakeEngine("7 " * 99)).status is Status.TRUNCATED


def test_an_abort_ends_the_agent_and_keeps_what_there_is(template: ChatTemplate) -> None:
    engine = FakeEngine()
    engine = FakeEngine(lambda ids, sampling: engine.completion(ids, "It", sampling, "abort"))
    sample = fill(template, ask, engine)
    assert (sample.status, sample.response, sample.reason) == (Status.ABORTED, "It", "aborted by the script")


def test_an_engine_error_goes_up(template: ChatTemplate) -> None:
    with pytest.raises(EngineError, match="is gone"):
        fill(template, ask, FakeEngine(lambda ids, sampling: EngineError("the engine is gone")))


async def raise_it(base_url: str, api_key: str, sample: Sample) -> None:
    raise KeyError("tool")


async def do_nothing(base_url: str, api_key: str, sample: Sample) -> None: ...


async def hang(base_url: str, api_key: str, sample: Sample) -> None:
    await ask(base_url, api_key, sample)
    await asyncio.sleep(3600)


async def return_a_set(base_url: str, api_key: str, sample: Sample) -> set[int]:
    await ask(base_url, api_key, sample)
    return {1}


@pytest.mark.parametrize(
    ("agent", "error", "said"),
    [
        (raise_it, KeyError, "tool"),
        (do_nothing, SlimrlError, "without a reply"),
        (hang, TimeoutError, "within 3 s"),
        (return_a_set, TypeError, "not JSON serializable"),
    ],
)
def test_what_goes_wrong_in_an_agent_is_raised(
    template: ChatTemplate, agent: Act, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fill(template, agent, FakeEngine("7"), timeout_s=3)


def test_a_sync_agent_runs_in_a_thread_and_what_it_returns_is_kept(tmp_path: Path, template: ChatTemplate) -> None:
    file = tmp_path / "agent.py"
    file.write_text(
        "import openai\n\n\n"
        "def act(base_url, api_key, sample):\n"
        "    with openai.OpenAI(base_url=base_url, api_key=api_key) as client:\n"
        "        messages = [{'role': 'user', 'content': sample.prompt}]\n"
        "        client.chat.completions.create(model='m', messages=messages)\n"
        "    return {'requests': 1}\n"
    )
    sample = fill(template, path_agent(f"{file}:act"), FakeEngine("7"))
    assert (sample.response, sample.metadata["agent_result"]) == ("7", {"requests": 1})


def test_an_async_agent_does_not_keep_the_event_loop_waiting(tmp_path: Path, template: ChatTemplate) -> None:
    file = tmp_path / "agent.py"
    file.write_text(
        "import sys, time\n\n\n"
        "async def block(base_url, api_key, sample):\n"
        "    time.sleep(1.0)\n"
        "    sys.exit('no more')\n"
    )

    async def go() -> float:
        generate = agent_generator(path_agent(f"{file}:block"), Endpoint(lambda: template, "small"), 30)
        work = asyncio.ensure_future(generate(pending(), SAMPLING, FakeEngine("7")))
        longest = 0.0
        while not work.done():
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - begun)
        with pytest.raises(SlimrlError, match="SystemExit: no more"):
            await work
        return longest

    assert asyncio.run(go()) < 0.5


PROGRAM = """
import json, os, sys, urllib.request
given = json.loads(sys.stdin.readline())
body = {"messages": [{"role": "user", "content": given["prompt"]}]}
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
assert "label" not in given
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Act]:
    def write(text: str) -> Act:
        (tmp_path / "agent.py").write_text(text)
        return command_agent(f"{sys.executable} -S {tmp_path / 'agent.py'}")

    return write


def test_an_agent_that_is_a_process_of_its_own(template: ChatTemplate, program: Callable[[str], Act]) -> None:
    sample = fill(template, program(PROGRAM), FakeEngine("It is 7."))
    assert (sample.response, sample.status) == ("It is 7.", Status.COMPLETED)


def test_a_process_that_fails_says_its_last_line(template: ChatTemplate, program: Callable[[str], Act]) -> None:
    with pytest.raises(SlimrlError, match=r"exited with 1: ValueError: no luck"):
        fill(template, program(f"{PROGRAM}\nraise ValueError('no luck')"), FakeEngine("7"))


def test_a_process_that_hangs_is_killed_with_its_children(
    template: ChatTemplate, program: Callable[[str], Act], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    text = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(TimeoutError, match="did not end within"):
        fill(template, program(text), FakeEngine("7"), timeout_s=5)
    deadline = time.monotonic() + 20
    while any(_is_alive(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_cancelling_ends_the_agent(template: ChatTemplate) -> None:
    class Silent(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Completion:
            await asyncio.sleep(3600)
            raise AssertionError("nobody waits this long")

    async def go() -> None:
        generate = agent_generator(ask, Endpoint(lambda: template, "small"), 60)
        task = asyncio.ensure_future(generate(pending(), SAMPLING, Silent()))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled()

    asyncio.run(go())


def test_options_are_checked_before_anything_starts(byte_checkpoint: Path, tmp_path: Path) -> None:
    def made(agent: AgentOptions, checkpoint: Path | None = byte_checkpoint) -> object:
        return make(Options([agent, CkptConfig(hf_checkpoint=checkpoint), RolloutConfig()]))

    with pytest.raises(UsageError, match="either --agent-path or --agent-command"):
        made(AgentOptions())
    with pytest.raises(UsageError, match="either --agent-path or --agent-command"):
        made(AgentOptions(agent_path="json:loads", agent_command="true"))
    with pytest.raises(UsageError, match="no program 'no-such-program'"):
        made(AgentOptions(agent_command="no-such-program --x"))
    with pytest.raises(UsageError, match="no function"):
        made(AgentOptions(agent_path="json:__name__"))
    with pytest.raises(UsageError, match="--hf-checkpoint"):
        made(AgentOptions(agent_path="json:loads"), None)
    with pytest.raises(ValueError, match="must be above 0"):
        AgentOptions(agent_timeout_s=0)
    assert callable(made(AgentOptions(agent_path="json:loads")))


def test_the_template_has_the_variables_of_the_prompts(byte_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(
        "import openai\n\n\n"
        "async def act(base_url, api_key, sample):\n"
        "    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:\n"
        "        await client.chat.completions.create(model='m', messages=[{'role': 'user', 'content': 'One?'}])\n"
    )
    agent = AgentOptions(agent_path=f"{tmp_path}/agent.py:act")
    rollout = RolloutConfig(apply_chat_template_kwargs='{"add_generation_prompt": false}')
    generate = make(Options([agent, CkptConfig(hf_checkpoint=byte_checkpoint), rollout]))
    engine = FakeEngine("7")
    asyncio.run(generate(pending(), SAMPLING, engine))
    assert engine.requests[0].text == "user\nOne?\n"


def test_a_file_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert AgentOptions(agent_path="agent.py:act").agent_path == f"{tmp_path}/agent.py:act"
    assert AgentOptions().agent_path == ""


async def talk(base_url: str, api_key: str, sample: Sample) -> str:
    """Three conversations, of which the model says nothing in the second and most in the third; then an outcome."""
    for question in ("One?", "Two?", "Three?"):
        async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
            messages: list[Any] = [{"role": "user", "content": question}]
            cold = {"temperature": 0.1} if question == "Two?" else {}
            await client.chat.completions.create(model="m", messages=messages, **cold)
    return "won"


def test_every_conversation_with_words_of_the_model_is_a_sibling(template: ChatTemplate) -> None:
    sample = pending()
    sample.metadata |= {"a": [1], "agent_segment": 7}
    engine = FakeEngine(["7", "no", "It is 7."])
    endpoint = Endpoint(lambda: template, "small", own_sampling=True)
    found = asyncio.run(agent_generator(talk, endpoint, 30)(sample, SAMPLING, engine))
    assert isinstance(found, list)
    assert found[0] is sample
    assert [one.response for one in found] == ["7", "It is 7."]
    assert [one.status for one in found] == [Status.COMPLETED] * 2
    assert [list(request.input_ids) for request in engine.requests[::2]] == [one.prompt_tokens for one in found]
    outcome = {"a": [1], "agent_result": "won", "agent_segments": 3}
    assert [one.metadata for one in found] == [{**outcome, "agent_segment": place} for place in (0, 1)]
    assert found[0].metadata["a"] is not found[1].metadata["a"]


def test_siblings_are_one_rollout_of_their_group(template: ChatTemplate) -> None:
    async def no_score(group: Group) -> None: ...

    group = Group(0, [pending(0), pending(1)])
    generate = agent_generator(talk, Endpoint(lambda: template, "small"), 30)
    asyncio.run(produce(group, generate, FakeEngine("7"), no_score, SAMPLING))
    assert [one.rollout_id for one in group] == [0, 0, 0, 1, 1, 1]
    assert len({one.sample_id for one in group}) == 6


def test_only_the_longest_conversation_is_the_sample_where_that_is_wanted(template: ChatTemplate) -> None:
    generate = agent_generator(talk, Endpoint(lambda: template, "small"), 30, trains_all=False)
    sample = pending()
    assert asyncio.run(generate(sample, SAMPLING, FakeEngine(["7", "no", "It is 7."]))) is sample
    assert (sample.response, sample.metadata["agent_segments"]) == ("It is 7.", 3)


def test_a_spent_budget_truncates_all_of_a_trajectory(template: ChatTemplate) -> None:
    sampling = SamplingParams(max_new_tokens=11, sampling_seed=7)
    generate = agent_generator(talk, Endpoint(lambda: template, "small"), 30)
    found = asyncio.run(generate(pending(), sampling, FakeEngine(["7", "It is 7."])))
    assert [one.status for one in found] == [Status.TRUNCATED] * 2


def test_a_conversation_that_fills_the_context_is_refused_and_a_shorter_one_goes_on(template: ChatTemplate) -> None:
    codes: list[str | None] = []

    async def compact(base_url: str, api_key: str, sample: Sample) -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
            for question in ("One?", "One? " * 9, "Two?"):
                try:
                    messages: list[Any] = [{"role": "user", "content": question}]
                    await client.chat.completions.create(model="m", messages=messages)
                except openai.BadRequestError as error:
                    codes.append(error.code)

    sampling = SamplingParams(max_new_tokens=60, max_context_len=40)
    generate = agent_generator(compact, Endpoint(lambda: template, "small"), 30)
    found = asyncio.run(generate(pending(), sampling, FakeEngine("7")))
    assert codes == ["context_length_exceeded"]
    assert [one.status for one in found] == [Status.COMPLETED] * 2
    assert all(len(one.prompt_tokens) + len(one.tokens) <= 40 for one in found)
