"""What a model or a client may write, however odd: tool calls, messages and requests."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.endpoint import ChatTemplate
from slimrl.endpoint.fault import Fault
from slimrl.endpoint.messages import common_prefix, read_messages
from slimrl.endpoint.request import read_request
from slimrl.endpoint.tool_calls import CLOSE, OPEN, split_tool_calls

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
PIECES = st.lists(
    st.sampled_from([OPEN, CLOSE, '{"name": "f"', ', "arguments": {}}', "x", "\n", "[", '"']), max_size=12
)


@given(PIECES)
def test_any_text_is_split_and_without_calls_stays_as_it_is(pieces: list[str]) -> None:
    text = "".join(pieces)
    rest, calls = split_tool_calls(text)
    assert calls or rest == text
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)


def test_several_calls_and_broken_ones_between_them() -> None:
    good = f'{OPEN}{{"name": "f", "arguments": {{"x": 1}}}}{CLOSE}'
    text_arguments = f'{OPEN}\n{{"name": "g", "arguments": "{{}}"}}\n{CLOSE}'
    rest, calls = split_tool_calls(f"A {good}{OPEN}broken{CLOSE}{text_arguments} B {OPEN}open")
    assert rest == f"A {OPEN}broken{CLOSE} B {OPEN}open"
    assert [(call.name, call.arguments) for call in calls] == [("f", '{"x": 1}'), ("g", "{}")]


@pytest.mark.parametrize("text", [OPEN * 20_000, f"{OPEN}{CLOSE}" * 20_000, OPEN + "[" * 200_000 + CLOSE])
def test_hostile_replies_are_split_in_bounded_time(text: str) -> None:
    started = time.process_time()
    assert split_tool_calls(text) == (text, [])
    assert time.process_time() - started < 2


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "messages": st.lists(
                st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JSON, max_size=3), max_size=3
            )
        }
    )
)
def test_any_json_is_a_request_or_a_fault(body: Any) -> None:
    try:
        assert read_request(body).messages
    except Fault as fault:
        assert fault.status == 400


CONVERSATION = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=6)}), min_size=1
)


@given(CONVERSATION, CONVERSATION)
def test_the_common_prefix_is_symmetric_and_no_longer_than_either(one: list[Any], other: list[Any]) -> None:
    stored, sent = read_messages(one), read_messages(other)
    assert common_prefix(stored, sent) == common_prefix(sent, stored) <= min(len(stored), len(sent))
    assert common_prefix(stored, stored + sent) >= len(stored)


WORDS = st.text(st.sampled_from("abc 123\n"), min_size=1, max_size=12)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), WORDS)
def test_a_prompt_and_its_tail_are_the_whole_conversation_as_the_template_has_it(
    template: ChatTemplate, turns: list[tuple[str, str]], last: str
) -> None:
    messages: list[Any] = []
    for question, reply in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply.strip()}]
    new = [{"role": "user", "content": last}]
    earlier = [*template.render(messages[:-1], []), *messages[-1]["content"].encode(), 0]
    tail = template.tail([*messages, *new], len(messages), [], earlier[-1])
    assert tail is not None
    assert earlier + tail[0] == template.render([*messages, *new], [])
