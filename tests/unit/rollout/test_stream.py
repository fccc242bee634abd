"""Asynchronous rollout: groups are in flight over the steps, none is trained on too late, lost or taken twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import registry
from slimrl.data.buffer import Buffer, is_finished
from slimrl.data.prompts import PromptRow
from slimrl.data.source import PromptSource
from slimrl.errors import RolloutError
from slimrl.registry import Options
from slimrl.rollout.gate import Gate
from slimrl.rollout.loop import FillSettings
from slimrl.rollout.produce import produce
from slimrl.rollout.stream import Stream
from slimrl.types import Group, Sample, SamplingParams, Score, Status, Verdict

SIZE = 2
single_turn = registry.load(warn=False).resolve("generator", "single_turn").make(Options())
pop_first = registry.load(warn=False).resolve("buffer_filter", "pop_first").make(Options())


class Prompts:
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> PromptRow:
        return PromptRow(f"prompt {index}", index, {})

    def where(self, index: int) -> str:
        return f"prompts:{index}"


def a_source() -> PromptSource:
    return PromptSource(Prompts(), lambda prompt, where: [1, 2], group_size=SIZE, shuffle=True, seed=3)


async def score(group: Group) -> None:
    for sample in group:
        failed = sample.status is Status.FAILED
        sample.score = Score("error", reason=sample.reason) if failed else Score.scored(float(sample.sample_id % 2))


def a_stream(
    engine: Any,
    source: PromptSource,
    buffer: Buffer,
    how: FillSettings,
    *,
    max_staleness: int,
    num_steps: int = 100,
    keep: Callable[[Group], Verdict] | None = None,
    scores: Callable[[Group], Awaitable[None]] = score,
) -> Stream:
    make = partial(
        produce,
        generate=single_turn,
        engine=Gate(engine, 6),
        score=scores,
        sampling=SamplingParams(10, sampling_seed=0),
    )
    return Stream(source, buffer, make, keep, how, max_staleness=max_staleness, num_steps=num_steps)


def check_sample(sample: Sample) -> None:
    length = len(sample.tokens)
    assert length == len(sample.log_probs) == len(sample.loss_mask) == len(sample.weight_versions)
    assert sample.tokens == list(range(2, 2 + length))
    assert sample.weight_versions == sorted(sample.weight_versions)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    wanted=st.integers(1, 4),
    max_staleness=st.integers(1, 4),
    interval=st.integers(1, 3),
    in_flight=st.integers(0, 12),
    fail_share=st.sampled_from([0.0, 0.2]),
    drop_one_in=st.sampled_from([0, 3]),
    save_every=st.integers(1, 3),
    kills=st.lists(st.integers(0, 9), max_size=3),
)
def test_no_token_is_trained_too_late_and_every_prompt_once_or_accounted_for_whatever_fails_or_is_killed(
    simulated_engine: Any,
    seed: int,
    wanted: int,
    max_staleness: int,
    interval: int,
    in_flight: int,
    fail_share: float,
    drop_one_in: int,
    save_every: int,
    kills: list[int],
) -> None:
    """New weights come after a random time, every `interval` steps."""
    interval = min(interval, max_staleness)
    how = FillSettings(wanted, wanted + in_flight, max_finished=10_000)
    num_steps = 8

    def keep(group: Group) -> Verdict:
        return Verdict(not drop_one_in or group.group_id % drop_one_in != 1, "third")

    async def run() -> None:
        chance = random.Random(seed)
        engine = simulated_engine(seed, fail_share=fail_share)
        source, buffer = a_source(), Buffer(pop_first)
        stream = a_stream(engine, source, buffer, how, max_staleness=max_staleness, num_steps=num_steps, keep=keep)
        checkpoint = (0, json.dumps([source.state(), buffer.state()]))
        stored: dict[int, list[Group]] = {}
        left, step, version = list(kills), 0, 0
        while step < num_steps:
            filled = await stream.batch(step, version)
            assert len(filled.kept) == wanted
            for sample in (s for group in filled.kept for s in group):
                check_sample(sample)
                assert all(step - max_staleness <= v <= step for v in sample.weight_versions)
            stored[step] = filled.kept + filled.dropped
            for _ in range(chance.randint(0, 30)):
                await asyncio.sleep(0)
            step += 1
            if step % interval == 0:
                version = engine.version = step
            if step % save_every == 0:
                checkpoint = (step, json.dumps([source.state(), stream.state() + buffer.state()]))
            if step in left:
                left.remove(step)
                await stream.close()
                step, state = checkpoint[0], json.loads(checkpoint[1])
                version = engine.version = step
                source, buffer = a_source(), Buffer(pop_first)
                source.restore(state[0])
                buffer.restore(state[1])
                stream = a_stream(
                    engine, source, buffer, how, max_staleness=max_staleness, num_steps=num_steps, keep=keep
                )
                stored = {at: groups for at, groups in stored.items() if at < step}
        assert not engine.running, "something is generated that no step will train on"
        waiting = [values["group_id"] for values in stream.state() + buffer.state()]
        judged = [group for groups in stored.values() for group in groups]
        assert sorted([g.group_id for g in judged] + waiting) == list(range(source.position.next_group_id))
        for group in judged:
            assert is_finished(group)
            assert group.verdict
            assert group.verdict.keep or group.verdict.reason

    asyncio.run(run())


def test_the_next_batch_is_made_while_the_trainer_trains_and_no_more_than_the_bound_allows(
    simulated_engine: Any,
) -> None:
    async def go() -> None:
        engine, source = simulated_engine(0), a_source()
        stream = a_stream(engine, source, Buffer(pop_first), FillSettings(2, 99, 99), max_staleness=2)
        await stream.batch(0, 0)
        for _ in range(500):
            await asyncio.sleep(0)
        assert stream.metrics()["rollout/queue_groups"] == 4
        assert source.position.next_group_id == 6
        filled = await asyncio.wait_for(stream.batch(1, 1), 1)
        assert {v for group in filled.kept for s in group for v in s.weight_versions} == {0}
        await stream.close()

    asyncio.run(go())


def test_a_trainer_that_never_waits_gets_batches_of_the_weights_before(simulated_engine: Any) -> None:
    """A trainer that is slower than the engine gets batches as fresh as they can be, not as old as they may be."""

    async def go() -> None:
        engine, source = simulated_engine(0), a_source()
        stream = a_stream(engine, source, Buffer(pop_first), FillSettings(2, 99, 99), max_staleness=4)
        ages = []
        for step in range(9):
            engine.version = step
            filled = await stream.batch(step, step)
            ages.append(max(step - v for group in filled.kept for s in group for v in s.weight_versions))
            for _ in range(500):
                await asyncio.sleep(0)
        assert ages == [0, 1, 2, 3, 4, 1, 1, 1, 1], "those of the first wait are used up first"
        await stream.close()

    asyncio.run(go())


def test_what_is_in_flight_when_new_weights_come_goes_on_under_them(simulated_engine: Any) -> None:
    async def go() -> None:
        engine = simulated_engine(1)
        stream = a_stream(engine, a_source(), Buffer(pop_first), FillSettings(3, 99, 99), max_staleness=1)
        crossed = 0
        for step in range(12):
            engine.version = step
            filled = await stream.batch(step, step)
            for _ in range(4):
                await asyncio.sleep(0)
            crossed += sum(len(set(s.weight_versions)) == 2 for group in filled.kept for s in group)
        assert crossed > 0
        await stream.close()

    asyncio.run(go())


def test_nothing_is_generated_behind_the_last_step(simulated_engine: Any) -> None:
    async def go() -> None:
        engine, source = simulated_engine(0), a_source()
        stream = a_stream(engine, source, Buffer(pop_first), FillSettings(2, 99, 99), max_staleness=3, num_steps=2)
        await stream.batch(0, 0)
        await stream.batch(1, 1)
        assert not engine.running
        assert source.position.next_group_id == 4

    asyncio.run(go())


def test_a_budget_that_does_not_fill_a_batch_ends_it_or_takes_dropped_groups(simulated_engine: Any) -> None:
    def keep(group: Group) -> Verdict:
        return Verdict(False, "dull")

    async def go(falls_back: bool) -> Any:
        how = FillSettings(2, 4, max_finished=6, falls_back=falls_back)
        stream = a_stream(simulated_engine(0), a_source(), Buffer(pop_first), how, max_staleness=1, keep=keep)
        try:
            return await stream.batch(0, 0)
        finally:
            await stream.close()

    filled = asyncio.run(go(True))
    assert [group.verdict.reason for group in filled.kept] == ["insufficient_dull"] * 2
    assert 4 <= len(filled.dropped) <= 6
    with pytest.raises(RolloutError, match="only 0 of 2 kept"):
        asyncio.run(go(False))


def test_rewards_that_fail_end_the_run_at_the_next_batch(simulated_engine: Any) -> None:
    async def no_score(group: Group) -> None:
        for sample in group:
            sample.score = Score("error", reason="no grader")

    async def go() -> None:
        how = FillSettings(2, 4, max_finished=99, stop_on_unscored=True)
        stream = a_stream(simulated_engine(0), a_source(), Buffer(pop_first), how, max_staleness=1, scores=no_score)
        try:
            await stream.batch(0, 0)
        finally:
            await stream.close()

    with pytest.raises(RolloutError, match="no grader"):
        asyncio.run(go())


def test_an_error_of_a_filter_is_raised_and_not_lost_in_the_background(simulated_engine: Any) -> None:
    def keep(group: Group) -> Verdict:
        raise ZeroDivisionError("in a filter")

    async def go() -> None:
        how = FillSettings(2, 4, max_finished=99)
        stream = a_stream(simulated_engine(0), a_source(), Buffer(pop_first), how, max_staleness=1, keep=keep)
        try:
            await stream.batch(0, 0)
        finally:
            await stream.close()

    with pytest.raises(ZeroDivisionError, match="in a filter"):
        asyncio.run(go())


def test_finished_groups_that_a_resumed_run_finds_too_old_start_over(simulated_engine: Any) -> None:
    async def go() -> None:
        source, buffer = a_source(), Buffer(pop_first)
        first = a_stream(simulated_engine(0), source, buffer, FillSettings(2, 99, 99), max_staleness=4)
        await first.batch(0, 0)
        for _ in range(500):
            await asyncio.sleep(0)
        buffer.restore(first.state())
        assert all(is_finished(group) for group in buffer.groups)
        engine = simulated_engine(0, version=5)
        second = a_stream(engine, source, buffer, FillSettings(2, 99, 99), max_staleness=1)
        filled = await second.batch(5, 5)
        assert second.metrics()["rollout/too_old_groups"] > 0
        assert {v for group in filled.kept for s in group for v in s.weight_versions} == {5}
        assert [group.group_id for group in filled.kept] == [2, 3]
        await second.close()

    asyncio.run(go())
