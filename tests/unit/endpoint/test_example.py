"""The example's agent, as a function and as a program."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from slimrl import Endpoint, SamplingParams, Status
from slimrl.endpoint import ChatTemplate
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.samples import make_sample
from slimrl_generators.openai_agent import Act, agent_generator, command_agent, path_agent

AGENT = Path(__file__).parents[3] / "examples/openai_agent/agent.py"


@pytest.mark.parametrize("act", [path_agent(f"{AGENT}:act"), command_agent(f"{sys.executable} {AGENT}")])
def test_the_agent_of_the_example_answers_and_checks_itself(template: ChatTemplate, act: Act) -> None:
    sample = make_sample("", "7", status=Status.PENDING)
    generate = agent_generator(act, Endpoint(lambda: template, "small"), 60)
    asyncio.run(generate(sample, SamplingParams(max_new_tokens=60), FakeEngine(["It is 7", "7"])))
    assert sample.status is Status.COMPLETED
    assert sample.response.startswith("It is 7<|im_end|>\n<|im_start|>user\nCheck it.")
    assert sum(sample.loss_mask) == 10
