"""A teacher behind an engine: its log-probs come with the samples, or the samples have no score."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimrl import Group, Sample, Score, Status
from slimrl.data.buffer import Buffer, is_finished, start_over
from slimrl.engines.client import HttpEngineClient
from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command
from slimrl.errors import EngineError, RolloutError
from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.stored_rollout import read_rollout
from slimrl.rollout.batch import check_batch, make_batch
from slimrl.rollout.teacher import Teacher, open_teacher
from slimrl.rollout.unscored import unscored_metrics


def group_of(*responses: list[int], status: Status = Status.COMPLETED) -> Group:
    samples = []
    for number, response in enumerate(responses):
        sample = Sample(0, number, number, "1 2", [0, 1], status=status)
        sample.append(response, [-0.5] * len(response), [0] * len(response))
        samples.append(sample)
    return Group(0, samples)


async def worth_one(group: Group) -> None:
    for sample in group:
        sample.score = sample.score or Score.scored(1.0)


@pytest.fixture(scope="module")
def url(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded engine on the tiny model, in a process of its own."""
    settings = EngineSettings(tiny_checkpoint, device="cpu", dtype="float32", num_threads=1)
    process = EngineProcess(embedded_command(settings), tmp_path_factory.mktemp("teacher") / "engine.log")
    try:
        yield process.start()
    finally:
        process.stop()


def slow_log_probs(checkpoint: Path, sample: Sample) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor([*sample.prompt_tokens, *sample.tokens])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(checkpoint)(tokens[None]).logits[0].log_softmax(-1)
    return [logits[i - 1, tokens[i]].item() for i in range(len(sample.prompt_tokens), len(tokens))]


def test_the_log_probs_are_the_teachers_own(url: str, tiny_checkpoint: Path) -> None:
    group = group_of([3], [4, 5, 6, 8], [7, 7])

    async def go() -> None:
        async with open_teacher(url, worth_one, concurrency=2, vocab_size=9, ready_s=30) as teacher:
            await teacher.score(group)

    asyncio.run(go())
    for sample in group:
        assert sample.teacher_log_probs == pytest.approx(slow_log_probs(tiny_checkpoint, sample), abs=1e-4)
    batch = make_batch(0, [group])
    assert batch.teacher_log_probs is not None
    np.testing.assert_allclose(batch.teacher_log_probs[:1], group.samples[0].teacher_log_probs, rtol=1e-6)
    assert len(batch.teacher_log_probs) == 7


def test_a_sample_that_the_teacher_cannot_answer_for_has_no_score_and_is_counted(url: str) -> None:
    group = group_of([3, 4], [5, 20])  # there is no token 20

    async def go() -> None:
        async with open_teacher(url, worth_one, concurrency=2, vocab_size=None, ready_s=30) as teacher:
            await teacher.score(group)

    asyncio.run(go())
    first, second = group.samples
    assert first.value == 1.0
    assert second.score is not None
    assert (second.value, second.score.status, second.score.by) == (None, "error", "teacher")
    assert "token id 20 is outside the vocabulary" in second.score.reason
    assert unscored_metrics([group], "rollout/")["rollout/unscored_error_teacher"] == 1
    assert make_batch(0, [group]).sample_ids.tolist() == [0]


def test_a_teacher_that_is_not_there_is_named_at_the_start() -> None:
    async def go() -> None:
        async with open_teacher("http://127.0.0.1:9", worth_one, concurrency=1, vocab_size=None, ready_s=0.3):
            raise AssertionError

    with pytest.raises(EngineError, match=r"--opd-teacher-url http://127.0.0.1:9: start the teacher's engine"):
        asyncio.run(go())


class FakeClient(HttpEngineClient):
    """Counts what it is asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: list[list[int]] = []
        self.seconds = seconds

    async def log_probs(self, tokens: Any) -> list[float]:
        self.asked.append(list(tokens))
        await asyncio.sleep(self.seconds)
        return [-float(token) for token in tokens[1:]]


def test_only_finished_samples_are_shown_to_the_teacher_and_each_once() -> None:
    client, group = FakeClient(), group_of([3], [4])
    group.samples[1].status = Status.FAILED
    teacher = Teacher(client, worth_one)
    asyncio.run(teacher.score(group))
    asyncio.run(teacher.score(group))
    assert client.asked == [[0, 1, 3]]
    assert group.samples[0].teacher_log_probs == [-3.0]


def test_a_group_that_is_cut_off_while_the_teacher_thinks_is_not_finished() -> None:
    group = group_of([3], [4])

    async def go() -> None:
        task = asyncio.create_task(Teacher(FakeClient(10.0), worth_one).score(group))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())
    assert not is_finished(group)


def test_what_the_teacher_said_is_kept_with_the_sample(tmp_path: Path) -> None:
    group = group_of([3, 4])
    asyncio.run(Teacher(FakeClient(), worth_one).score(group))
    buffer = Buffer(lambda groups, count: groups[:count])
    buffer.restore([asdict(group)])
    (stored,) = read_rollout(write_rollout(tmp_path, 0, [group], {}))
    for found in (buffer.groups[0], stored):
        assert found.samples[0].teacher_log_probs == [-3.0, -4.0]
    assert start_over(group).samples[0].teacher_log_probs == []


def test_a_batch_in_which_a_teachers_log_probs_do_not_fit_is_refused() -> None:
    group = group_of([3, 4], [5])
    asyncio.run(Teacher(FakeClient(), worth_one).score(group))
    batch = make_batch(0, [group])
    assert check_batch(batch) == ""
    group.samples[1].append([6], [-0.5], [0])
    with pytest.raises(RolloutError, match="sample 1 has 2 tokens and a teacher's log-probs of 1"):
        make_batch(0, [group])
