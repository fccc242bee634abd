from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from slimrl import Completion, Sample, SamplingParams, Status
from slimrl_generators.single_turn import generate


@dataclass
class Engine:
    """Answers with the tokens 10, 11, ... and remembers what it was asked."""

    finish: Literal["stop", "length", "abort"] = "stop"
    count: int = 3
    asked: list[tuple[list[int], SamplingParams]] = field(default_factory=list)

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        self.asked.append((list(input_ids), sampling))
        tokens = [10 + i for i in range(self.count)]
        return Completion(tokens, [-0.5] * self.count, [4] * self.count, "abc", self.finish, finish_message="told to")


def fill(sample: Sample, engine: Engine, max_new_tokens: int = 8) -> Sample:
    return asyncio.run(generate(sample, SamplingParams(max_new_tokens, sampling_seed=5), engine))


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [("stop", Status.COMPLETED, ""), ("length", Status.TRUNCATED, ""), ("abort", Status.ABORTED, "told to")],
)
def test_how_the_engine_finished_is_the_samples_status(finish, status: Status, reason: str) -> None:
    sample = fill(Sample(0, 0, 0, "p", [1, 2]), Engine(finish))
    assert (sample.status, sample.reason) == (status, reason)
    assert (sample.tokens, sample.log_probs, sample.weight_versions) == ([10, 11, 12], [-0.5] * 3, [4] * 3)
    assert (sample.loss_mask, sample.response) == ([1, 1, 1], "abc")


def test_a_sample_that_was_begun_goes_on_within_its_budget() -> None:
    begun = Sample(0, 0, 0, "p", [1, 2])
    begun.append([7, 8], [-1.0, -1.0], [3, 3], text="xy")
    engine = Engine()
    sample = fill(begun, engine)
    assert engine.asked == [([1, 2, 7, 8], SamplingParams(6, sampling_seed=5))]
    assert sample.tokens == [7, 8, 10, 11, 12]
    assert sample.weight_versions == [3, 3, 4, 4, 4]
    assert sample.response == "xyabc"


def test_a_spent_budget_is_a_truncated_sample_without_a_request() -> None:
    begun = Sample(0, 0, 0, "p", [1, 2])
    begun.append([7] * 8, [-1.0] * 8, [3] * 8)
    engine = Engine()
    assert fill(begun, engine).status is Status.TRUNCATED
    assert engine.asked == []
