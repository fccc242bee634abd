"""What an environment of multi_turn may change, and one that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from slimrl import (
    ChatTemplate,
    Group,
    Sample,
    Status,
)
from slimrl.rollout.produce import produce
from slimrl.testing.fake_engine import FakeEngine
from slimrl_generators.multi_turn import multi_turn
from slimrl_generators.user_function import outside


def test_an_environment_cannot_change_the_sample_but_for_its_metadata(
    conversation: Any, template: ChatTemplate
) -> None:
    def meddle(sample: Sample, reply: str) -> None:
        sample.status, sample.response, sample.label = Status.FAILED, "mine", None
        sample.metadata = {"solved": True, "multi_turn": "mine"}

    sample = conversation.fill(template, meddle, FakeEngine("7"))
    assert (sample.status, sample.response, sample.label) == (Status.COMPLETED, "7", "7")
    assert sample.metadata["solved"] is True
    assert sample.metadata["multi_turn"]["messages"] == [{"role": "assistant", "content": "7"}]


def raise_it(sample: Sample, reply: str) -> str:
    raise KeyError("room")


def exit_it(sample: Sample, reply: str) -> str:
    raise SystemExit("bye")


def hang(sample: Sample, reply: str) -> str:
    time.sleep(3)
    return "late"


async def hang_async(sample: Sample, reply: str) -> str:
    time.sleep(0.1)  # noqa: ASYNC251  # it may even keep its own event loop waiting
    await asyncio.sleep(3600)
    return "late"


async def time_out(sample: Sample, reply: str) -> str:
    raise TimeoutError("its own")


def keep_a_set(sample: Sample, reply: str) -> None:
    sample.metadata["seen"] = {reply}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (raise_it, "KeyError: 'room'"),
        (exit_it, "SystemExit: bye"),
        (hang, "did not answer within 0.5 s (--environment-timeout-s) in turn 1"),
        (hang_async, "did not answer within 0.5 s"),
        (time_out, "TimeoutError: its own"),
        (keep_a_set, "metadata['seen']"),
        (lambda sample, reply: 7, "returned 7; return a text"),
        (lambda sample, reply: [], "returned []; return a text"),
        (lambda sample, reply: ["Sure?"], "the message 'Sure?'"),
        (lambda sample, reply: [{"role": "user", "content": 7}], "a text as content"),
        (lambda sample, reply: [{"role": "assistant", "content": "7"}], "speaks as 'assistant'"),
    ],
)
def test_an_environment_that_fails_fails_its_sample_with_the_reason(
    conversation: Any, template: ChatTemplate, environment: Callable[..., Any], said: str
) -> None:
    sample = conversation.pending()
    generate = multi_turn(outside(environment), lambda: template, 8, 0.5)

    async def no_score(group: Group) -> None: ...

    asyncio.run(produce(Group(0, [sample]), generate, FakeEngine("7"), no_score, conversation.SAMPLING))
    assert sample.status is Status.FAILED
    assert said in sample.reason
