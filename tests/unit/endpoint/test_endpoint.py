"""The endpoint as the real `openai` client finds it; the engine is a fake one, a token is a byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from slimrl.endpoint import ChatTemplate, Endpoint, Session
from slimrl.errors import EngineError
from slimrl.testing.fake_engine import FakeEngine, Script
from slimrl.types import Completion, SamplingParams

SAMPLING = SamplingParams(max_new_tokens=400, temperature=1.0, sampling_seed=7)
QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call>'

Use = Callable[[openai.AsyncOpenAI], Awaitable[Any]]


def act(
    template: ChatTemplate,
    use: Use,
    script: Script | FakeEngine | None = None,
    sampling: SamplingParams = SAMPLING,
    **settings: bool,
) -> tuple[Session, FakeEngine, Any]:
    """Let a client act in a session; returns what was recorded, the engine, and what `use` returned."""
    engine = script if isinstance(script, FakeEngine) else FakeEngine(script)

    async def go() -> tuple[Session, Any]:
        endpoint = Endpoint(lambda: template, "small", **settings)
        async with (
            endpoint.session(engine, sampling) as (base_url, session),
            openai.AsyncOpenAI(base_url=base_url, api_key=session.key) as client,
        ):
            return session, await use(client)

    session, result = asyncio.run(go())
    return session, engine, result


def ask(client: openai.AsyncOpenAI, messages: Any = QUESTION, **more: Any) -> Any:
    return client.chat.completions.create(model="small", messages=messages, **more)


def rendered(text: str) -> list[int]:
    """Tokens of a text in which < is the start of a turn and > its end."""
    return [{ord("<"): 256, ord(">"): 0}.get(byte, byte) for byte in text.encode()]


def test_a_question_is_answered_and_is_one_trained_sample(template: ChatTemplate) -> None:
    session, engine, reply = act(template, ask, "It is 7.")
    choice = reply.choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.role) == ("It is 7.", "stop", "assistant")
    (sample,) = session.samples()
    assert sample.prompt_tokens == rendered("<user\nWhat is 3 + 4?>\n<assistant\n")
    assert sample.tokens == rendered("It is 7.>")
    assert sample.loss_mask == [1] * len(sample.tokens)
    assert list(engine.requests[0].input_ids) == sample.prompt_tokens
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(sample.prompt_tokens), 9)


async def two_turns(client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [*QUESTION]
    reply = await ask(client, messages)
    messages += [reply.choices[0].message, {"role": "user", "content": "Sure?"}]
    await ask(client, messages)


def test_a_second_turn_reuses_the_tokens_that_were_sampled(template: ChatTemplate) -> None:
    session, engine, _ = act(template, two_turns, ["  It is  7.  ", "Yes."])  # a template would strip the first
    (sample,) = session.samples()
    first, between, second = rendered("  It is  7.  >"), rendered("\n<user\nSure?>\n<assistant\n"), rendered("Yes.>")
    assert sample.tokens == first + between + second
    assert sample.loss_mask == [1] * len(first) + [0] * len(between) + [1] * len(second)
    assert list(engine.requests[1].input_ids) == sample.prompt_tokens + first + between
    expected = [engine.log_prob(sample.prompt_tokens + sample.tokens[:at], sample.tokens[at]) for at in range(5)]
    assert sample.log_probs[:5] == pytest.approx(expected)
    assert set(sample.weight_versions) == {1}


def test_a_turn_cut_by_its_length_gets_its_end_from_the_template(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> str:
        reply = await ask(client, max_tokens=5)
        await ask(client, [*QUESTION, reply.choices[0].message, {"role": "user", "content": "Go on"}])
        return str(reply.choices[0].finish_reason)

    session, _, finish = act(template, use, "It is 7.")
    (sample,) = session.samples()
    assert finish == "length"
    assert sample.tokens == rendered("It is>\n<user\nGo on>\n<assistant\nIt is 7.>")


def test_every_seed_of_a_trajectory_is_its_own(template: ChatTemplate) -> None:
    _, engine, _ = act(template, two_turns, "7")
    seeds = [request.sampling.sampling_seed for request in engine.requests]
    assert seeds[0] == 7
    assert len(set(seeds)) == 2


def test_a_changed_history_begins_a_new_segment(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        await ask(client)
        await ask(client, [*QUESTION, {"role": "assistant", "content": "8"}, {"role": "user", "content": "Sure?"}])

    session, _, _ = act(template, use, ["It is 7.", "Yes."])
    first, second = session.samples()
    assert first.tokens == rendered("It is 7.>")
    assert second.tokens == rendered("Yes.>")
    assert second.prompt_tokens == rendered("<user\nWhat is 3 + 4?>\n<assistant\n8>\n<user\nSure?>\n<assistant\n")


def test_a_branch_has_the_shared_turns_as_its_prompt_and_they_are_trained_once(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        reply = await ask(client)
        shared = [*QUESTION, reply.choices[0].message]
        await asyncio.gather(*(ask(client, [*shared, {"role": "user", "content": word}]) for word in ("A", "B")))

    session, _, _ = act(template, use, " 7 ")
    long, branch = session.samples()
    assert sum(long.loss_mask) == 8
    assert sum(branch.loss_mask) == 4
    assert branch.prompt_tokens[: len(long.prompt_tokens) + 4] == long.prompt_tokens + rendered(" 7 >")


def test_a_streamed_reply_is_the_same_as_a_whole_one(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> tuple[str, str, int]:
        text, finish, written = "", "", 0
        async for chunk in await ask(client, stream=True, stream_options={"include_usage": True}):
            written = chunk.usage.completion_tokens if chunk.usage else written
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        return text, finish, written

    session, _, streamed = act(template, use, " It  is\n7. ")
    assert streamed == (" It  is\n7. ", "stop", 12)
    assert session.samples()[0].tokens == rendered(" It  is\n7. >")


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_come_as_openai_has_them_and_their_results_go_on(template: ChatTemplate, stream: bool) -> None:
    async def use(client: openai.AsyncOpenAI) -> tuple[str, str, str | None]:
        if stream:
            async with client.chat.completions.stream(model="small", messages=QUESTION, tools=[ADD]) as events:
                reply = await events.get_final_completion()
        else:
            reply = await ask(client, tools=[ADD])
        message = reply.choices[0].message
        (call,) = message.tool_calls
        result = {"role": "tool", "tool_call_id": call.id, "content": "7"}
        sent = message.model_dump(exclude={"parsed"}, exclude_none=True)
        sent["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": "add", "arguments": call.function.arguments}}
        ]
        await ask(client, [*QUESTION, sent, result], tools=[ADD])
        return call.function.name, call.function.arguments, reply.choices[0].finish_reason

    session, _, (name, arguments, finish) = act(template, use, [f"I add.\n{CALL}", "It is 7."])
    assert (name, arguments, finish) == ("add", '{"a": 3, "b": 4}', "tool_calls")
    (sample,) = session.samples()
    assert sample.response.startswith(f"I add.\n{CALL}")
    assert sample.loss_mask.count(0) == len(rendered("\n<tool\n7>\n<assistant\n"))


def test_without_tools_or_with_tool_choice_none_a_call_is_text(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> list[Any]:
        replies = [await ask(client), await ask(client, tools=[ADD], tool_choice="none")]
        return [(reply.choices[0].message.content, reply.choices[0].message.tool_calls) for reply in replies]

    assert act(template, use, CALL)[2] == [(CALL, None)] * 2


def test_a_stop_text_is_kept_from_the_client_and_not_from_the_tokens(template: ChatTemplate) -> None:
    class Stopping(FakeEngine):
        async def generate(self, input_ids: Any, sampling: SamplingParams, *, request_id: Any = None) -> Completion:
            assert sampling.stop == ("END",)
            return self.completion(input_ids, "7 END", sampling)

    session, _, reply = act(template, lambda client: ask(client, stop="END"), Stopping())
    assert reply.choices[0].message.content == "7 "
    assert session.samples()[0].response == "7 END"


def test_log_probs_are_those_of_the_tokens(template: ChatTemplate) -> None:
    session, _, reply = act(template, lambda client: ask(client, logprobs=True), "ab")
    entries = reply.choices[0].logprobs.content
    assert [entry.token for entry in entries] == ["a", "b", "<|im_end|>"]
    assert [entry.logprob for entry in entries] == session.samples()[0].log_probs


def test_the_runs_sampling_holds_unless_the_agent_may_choose(template: ChatTemplate) -> None:
    def use(client: openai.AsyncOpenAI) -> Any:
        return ask(client, temperature=0.5, top_p=0.9, seed=3)

    session, engine, _ = act(template, use, "7")
    assert engine.requests[0].sampling == SAMPLING
    assert session.samples()[0].loss_mask == [1, 1]
    session, engine, _ = act(template, use, "7", own_sampling=True)
    asked = engine.requests[0].sampling
    assert (asked.temperature, asked.top_p, asked.sampling_seed) == (0.5, 0.9, 3)
    assert session.samples()[0].loss_mask == [0, 0]


def test_the_model_writes_no_more_than_one_response_may_have(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> str:
        reply = await ask(client)
        reply = await ask(client, [*QUESTION, reply.choices[0].message, {"role": "user", "content": "More"}])
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client)
        return str(refused.value.code)

    session, engine, code = act(template, use, "It is 7.", SamplingParams(max_new_tokens=12))
    assert [request.sampling.max_new_tokens for request in engine.requests] == [12, 3]
    assert (code, session.is_spent) == ("context_length_exceeded", True)
    assert sum(session.samples()[0].loss_mask) == 12


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tool_choice": "required", "tools": [ADD]}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bard", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0]",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_parameters_name(
    template: ChatTemplate, more: dict[str, Any], param: str
) -> None:
    async def use(client: openai.AsyncOpenAI) -> Any:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, **more)
        return refused.value

    session, engine, error = act(template, use, "7")
    assert (error.param, error.type) == (param, "invalid_request_error")
    assert (session.segments, engine.requests) == ([], [])


def test_a_key_of_no_trajectory_an_unknown_path_and_a_body_that_is_no_json(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> list[str]:
        assert [model.id async for model in client.models.list()] == ["small"]
        with pytest.raises(openai.AuthenticationError):
            await ask(client.with_options(api_key="sk-other"))
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="small", input="x")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/chat/completions", body=None, cast_to=dict, options={"headers": {"x": "y"}})
        return [str(refused.value)]

    assert "not JSON" in act(template, use, "7")[2][0]


def test_an_engine_error_is_told_once_and_kept(template: ChatTemplate) -> None:
    async def use(client: openai.AsyncOpenAI) -> str:
        with pytest.raises(openai.InternalServerError) as failed:
            await ask(client)
        return str(failed.value)

    session, engine, said = act(template, use, lambda ids, sampling: EngineError("the engine is gone"))
    assert "the engine is gone" in said
    assert str(session.engine_error) == "the engine is gone"
    assert len(engine.requests) == 1


class Slow(FakeEngine):
    """Never answers a question, and says when it was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()

    async def generate(self, *args: Any, **kwargs: Any) -> Completion:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError("nobody waits this long")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_generation_and_nothing_is_recorded(
    template: ChatTemplate, stream: bool
) -> None:
    engine = Slow()

    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APITimeoutError):
            await ask(client.with_options(timeout=0.3, max_retries=0), stream=stream)
        await asyncio.wait_for(engine.cancelled.wait(), 10)

    assert act(template, use, engine)[0].segments == []


def test_two_agents_at_once_have_each_their_own_turns(template: ChatTemplate) -> None:
    async def go() -> list[Session]:
        endpoint = Endpoint(lambda: template, "small")

        async def one(word: str) -> Session:
            engine = FakeEngine(f"{word}!")
            async with (
                endpoint.session(engine, SAMPLING) as (base_url, session),
                openai.AsyncOpenAI(base_url=base_url, api_key=session.key) as client,
            ):
                await two_turns(client)
                return session

        return await asyncio.gather(*(one(word) for word in ("A", "B")))

    for word, session in zip(("A", "B"), asyncio.run(go()), strict=True):
        (sample,) = session.samples()
        assert sample.tokens == rendered(f"{word}!>\n<user\nSure?>\n<assistant\n{word}!>")
