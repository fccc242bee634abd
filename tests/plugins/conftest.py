"""A conversation of the generator multi_turn, as its tests hold one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from slimrl import Sample, SamplingParams, Status
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.samples import make_sample
from slimrl_generators.conversation import Template
from slimrl_generators.multi_turn import multi_turn
from slimrl_generators.user_function import outside


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
