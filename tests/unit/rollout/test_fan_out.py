"""A generator may return several samples for one: siblings of one rollout, scored, stored and weighed as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from slimrl.algorithms.reduction import token_weights
from slimrl.observe.rollout_file import write_rollout
from slimrl.rollout.batch import make_batch
from slimrl.rollout.produce import produce
from slimrl.testing import FakeEngine
from slimrl.types import Group, Sample, SamplingParams, Score, Status


def pending(sample_id: int, tokens: Sequence[int] = (1,)) -> Sample:
    return Sample(
        group_id=2, sample_id=sample_id, rollout_id=sample_id, prompt="p", prompt_tokens=list(tokens), seed=sample_id
    )


async def score(group: Group) -> None:
    for sample in group:
        if sample.status is not Status.FAILED:
            sample.score = Score.scored(1.0)


def finish(sample: Sample, length: int) -> Sample:
    sample.append([5] * length, [-1.0] * length, [0] * length, text="x" * length)
    sample.status = Status.COMPLETED
    return sample


async def fan_out(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample | list[Sample]:
    """Sample 4 becomes three; the others stay alone."""
    if sample.sample_id != 4:
        return finish(sample, 2)
    return [finish(sample, 1), finish(pending(99, (1, 2)), 2), finish(pending(98), 3)]


def produced(generate: Any) -> Group:
    group = Group(2, [pending(4), pending(5)])
    return asyncio.run(produce(group, generate, FakeEngine(), score, SamplingParams(max_new_tokens=4)))


def test_siblings_share_group_and_rollout_and_have_ids_of_their_own() -> None:
    group = produced(fan_out)
    assert [s.group_id for s in group] == [2] * 4
    assert [s.rollout_id for s in group] == [4, 4, 4, 5]
    assert len({s.sample_id for s in group}) == 4
    assert [s.sample_id for s in group][0::3] == [4, 5]
    assert all(s.value == 1.0 for s in group)


def test_siblings_count_as_one_rollout_in_the_loss() -> None:
    batch = make_batch(0, [produced(fan_out)])
    rollout_of_token = torch.tensor(batch.rollout_ids - 4).repeat_interleave(torch.tensor(batch.response_lengths))
    mask = torch.tensor(batch.loss_mask)
    weights = token_weights(mask, rollout_of_token, num_rollouts=2, per_token=False)
    for rollout in (0, 1):
        assert weights[rollout_of_token == rollout].sum().item() == pytest.approx(0.5)


def test_a_sibling_without_a_prompt_is_a_failure_of_its_rollout() -> None:
    async def without(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample | list[Sample]:
        return [finish(sample, 1), finish(pending(99, ()), 2)] if sample.sample_id == 4 else finish(sample, 2)

    group = produced(without)
    assert [(s.status, len(s.tokens)) for s in group] == [(Status.FAILED, 0), (Status.COMPLETED, 2)]
    assert group.samples[0].reason.endswith("without prompt tokens")


def test_siblings_are_stored_in_the_run_folder(tmp_path: Path) -> None:
    path = write_rollout(tmp_path, 0, [produced(fan_out)], {})
    table = pq.read_table(path).to_pydict()
    assert sorted(table["rollout_id"]) == [4, 4, 4, 5]
    assert sorted(map(len, table["response"])) == [1, 2, 2, 3]


def test_a_group_that_is_cut_off_keeps_the_whole_of_a_fan_out() -> None:
    async def one_hangs(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample | list[Sample]:
        if sample.sample_id == 5:
            await asyncio.Event().wait()
        return await fan_out(sample, sampling, engine)

    async def cut_off() -> Group:
        group = Group(2, [pending(4), pending(5)])
        task = asyncio.create_task(produce(group, one_hangs, FakeEngine(), score, SamplingParams(max_new_tokens=4)))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return group

    assert [s.rollout_id for s in asyncio.run(cut_off())] == [4, 4, 4, 5]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda s: [], "no sample"),
        (lambda s: [s, s], "twice"),
        (lambda s: [pending(7, (8,))], "not of the prompt"),
        (lambda s: [s, "text"], "neither the sample"),
        (lambda s: None, "NoneType"),
        (lambda s: pending(7), "neither the sample"),
    ],
)
def test_what_is_no_fan_out_is_a_failure_with_its_reason(returned: Any, reason: str) -> None:
    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Any:
        return returned(sample)

    group = produced(generate)
    assert [s.status for s in group] == [Status.FAILED] * 2
    assert all(reason in s.reason for s in group)
