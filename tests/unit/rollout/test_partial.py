"""Partial rollout, from the engine to the buffer and its checkpoint: nothing is lost, nothing is trained on twice."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import registry
from slimrl.data.buffer import Buffer, is_finished
from slimrl.data.prompts import PromptRow
from slimrl.data.source import PromptSource
from slimrl.errors import EngineError
from slimrl.registry import Options
from slimrl.rollout.gate import Gate
from slimrl.rollout.loop import Filled, FillSettings, fill
from slimrl.rollout.partial import PartialRollout, mask_older
from slimrl.rollout.produce import produce
from slimrl.types import Group, Sample, SamplingParams, Score, Status, Verdict

SIZE = 3
single_turn = registry.load(warn=False).resolve("generator", "single_turn").make(Options())
ORDERS = [
    registry.load(warn=False).resolve("buffer_filter", name).make(Options())
    for name in ("pop_first", "newest_first", "by_staleness")
]


class Prompts:
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> PromptRow:
        return PromptRow(f"prompt {index}", index, {})

    def where(self, index: int) -> str:
        return f"prompts:{index}"


def a_source(count: int, shuffle: bool = True) -> PromptSource:
    return PromptSource(Prompts(count), lambda prompt, where: [1, 2], group_size=SIZE, shuffle=shuffle, seed=3)


def a_buffer(order: Any = ORDERS[0], *, partial: bool = True, continues: bool = True) -> Buffer:
    return Buffer(order, keeps_partial=partial, continues=continues)


async def one_step(
    source: PromptSource,
    buffer: Buffer,
    engine: Any,
    step: int,
    how: FillSettings,
    *,
    mask: bool = False,
    keep: Any = None,
    scores: Any = None,
    is_partial: bool = True,
    seed: int = 0,
) -> Filled:
    chance = random.Random(f"{seed} {step}")

    async def score(group: Group) -> None:
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        for sample in group:
            if sample.status is Status.FAILED:
                sample.score = Score("error", reason=sample.reason)
            else:
                sample.score = scores(sample) if scores else Score.scored(float(sample.sample_id % 2))

    engine.version = step
    gate = Gate(engine, 8)
    rollout = PartialRollout(single_turn, score, gate, step, mask_offpolicy=mask)
    make = partial(
        produce,
        generate=rollout.generate,
        engine=gate,
        score=rollout.score,
        sampling=SamplingParams(10, sampling_seed=0),
    )
    return await fill(source, buffer, make, keep, how, gate.shut if is_partial else None)


def check_sample(sample: Sample, newest: int) -> None:
    length = len(sample.tokens)
    assert length == len(sample.log_probs) == len(sample.loss_mask) == len(sample.weight_versions)
    assert sample.tokens == list(range(2, 2 + length))
    assert sample.response == "".join(f"<{token}>" for token in sample.tokens)
    assert sample.weight_versions == sorted(sample.weight_versions)
    assert all(0 <= version <= newest for version in sample.weight_versions)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    wanted=st.integers(1, 5),
    extra=st.integers(0, 6),
    order=st.sampled_from(range(len(ORDERS))),
    fail_share=st.sampled_from([0.0, 0.2]),
    drop_one_in=st.sampled_from([0, 3]),
    is_partial=st.booleans(),
    continues=st.booleans(),
    save_every=st.integers(1, 3),
    kills=st.lists(st.integers(0, 7), max_size=3),
)
def test_every_prompt_is_trained_once_or_accounted_for_whatever_fails_or_is_killed(
    simulated_engine: Any,
    seed: int,
    wanted: int,
    extra: int,
    order: int,
    fail_share: float,
    drop_one_in: int,
    is_partial: bool,
    continues: bool,
    save_every: int,
    kills: list[int],
) -> None:
    """What a step stored is thrown away with the step when a kill goes back behind it, as the run folder does."""
    how = FillSettings(wanted, wanted + extra, max_finished=10_000)

    def keep(group: Group) -> Verdict:
        return Verdict(not drop_one_in or group.group_id % drop_one_in != 1, "" if not drop_one_in else "third")

    def fresh() -> tuple[PromptSource, Buffer]:
        return a_source(7), a_buffer(ORDERS[order], partial=is_partial, continues=continues)

    def run() -> None:
        source, buffer = fresh()
        checkpoint = (0, json.dumps([source.state(), buffer.state()]))
        engine = simulated_engine(seed, fail_share=fail_share)
        stored: dict[int, list[Group]] = {}
        left, step = list(kills), 0
        while step < 6:
            filled = asyncio.run(
                one_step(source, buffer, engine, step, how, keep=keep, is_partial=is_partial, seed=seed)
            )
            assert not engine.running, "something is generated for nobody"
            stored[step] = filled.kept + filled.dropped
            step += 1
            if step % save_every == 0:
                checkpoint = (step, json.dumps([source.state(), buffer.state()]))
            if step in left:
                left.remove(step)
                step, state = checkpoint[0], json.loads(checkpoint[1])
                source, buffer = fresh()
                source.restore(state[0])
                buffer.restore(state[1])
                stored = {at: groups for at, groups in stored.items() if at < step}
        judged = [group for groups in stored.values() for group in groups]
        everything = sorted(g.group_id for g in judged + buffer.groups)
        assert everything == list(range(source.position.next_group_id))
        for group in judged:
            assert is_finished(group)
            assert [s.sample_id for s in group] == list(range(group.group_id * SIZE, (group.group_id + 1) * SIZE))
            dropped_by_name = group.verdict is not None and (group.verdict.keep or group.verdict.reason)
            assert dropped_by_name
            for sample in group:
                check_sample(sample, 5)
                assert sample.status is not Status.ABORTED
        for group in buffer.groups:
            for sample in group:
                check_sample(sample, 5)

    run()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    extra=st.integers(0, 9),
    order=st.sampled_from(range(len(ORDERS))),
    is_partial=st.booleans(),
    kill=st.integers(0, 3),
)
def test_every_prompt_of_a_run_is_trained_once_and_none_is_handed_out_beyond_it(
    simulated_engine: Any, seed: int, extra: int, order: int, is_partial: bool, kill: int
) -> None:
    """Without a filter the prompts of all steps are those of an uninterrupted run, wherever a kill goes back to."""
    source, buffer = a_source(5), a_buffer(ORDERS[order], partial=is_partial)
    engine = simulated_engine(seed)
    stored: dict[int, list[int]] = {}
    step, checkpoint = 0, (0, json.dumps([source.state(), buffer.state()]))
    while step < 4:
        how = FillSettings(3, 3 + extra, max_finished=99, left=(4 - step) * 3)
        filled = asyncio.run(one_step(source, buffer, engine, step, how, is_partial=is_partial, seed=seed))
        stored[step] = [group.group_id for group in filled.kept]
        step += 1
        if step == 2:
            checkpoint = (step, json.dumps([source.state(), buffer.state()]))
        if step == kill:
            kill, step, state = -1, checkpoint[0], json.loads(checkpoint[1])
            source, buffer = a_source(5), a_buffer(ORDERS[order], partial=is_partial)
            source.restore(state[0])
            buffer.restore(state[1])
    assert sorted(group for ids in stored.values() for group in ids) == list(range(12))
    assert source.position.next_group_id == 12
    assert buffer.groups == []


def cut_off_step(
    simulated_engine: Any, *, mask: bool = False, is_partial: bool = True, continues: bool = True
) -> tuple[Any, ...]:
    """Two steps of which the first cuts something off: source, buffer, both engines' requests, the second's batch."""
    for seed in range(100):
        source, buffer = a_source(50), a_buffer(partial=is_partial, continues=continues)
        engine = simulated_engine(seed)
        how = FillSettings(2, 6, max_finished=99)
        asyncio.run(one_step(source, buffer, engine, 0, how, is_partial=is_partial))
        begun = {s.sample_id: (s.status, list(s.tokens)) for g in buffer.groups if not is_finished(g) for s in g}
        partly = [i for i, (status, tokens) in begun.items() if status is Status.ABORTED and tokens]
        if (
            not is_partial
            or not continues
            or (partly and any(status is Status.COMPLETED for status, _ in begun.values()))
        ):
            requests = len(engine.seeds)
            wanted = len(buffer.groups)
            filled = asyncio.run(
                one_step(source, buffer, engine, 1, FillSettings(wanted, wanted, 99), mask=mask, is_partial=is_partial)
            )
            return begun, filled, engine.seeds[:requests], engine.seeds[requests:]
    raise AssertionError("nothing was ever cut off")


def test_what_was_cut_off_goes_on_and_records_whose_tokens_are_whose(simulated_engine: Any) -> None:
    begun, filled, _, later = cut_off_step(simulated_engine)
    samples = {s.sample_id: s for g in filled.kept for s in g}
    for sample_id, (status, tokens) in begun.items():
        sample = samples[sample_id]
        assert sample.tokens[: len(tokens)] == tokens
        if status in (Status.COMPLETED, Status.TRUNCATED):
            assert sample.tokens == tokens
            assert set(sample.weight_versions) == {0}
        else:
            assert sample.weight_versions == [0] * len(tokens) + [1] * (len(sample.tokens) - len(tokens))
        assert set(sample.loss_mask) <= {1}
    unfinished = [tokens for status, tokens in begun.values() if status is not Status.COMPLETED]
    assert sorted(length for _, length in later) == sorted(2 + len(tokens) for tokens in unfinished if len(tokens) < 10)


def test_a_sample_that_goes_on_does_not_repeat_its_noise(simulated_engine: Any) -> None:
    _, _, before, later = cut_off_step(simulated_engine)
    seeds = {seed for seed, _ in before}
    went_on = [seed for seed, length in later if length > 2]
    assert went_on
    assert not seeds & set(went_on)


def test_tokens_of_older_weights_leave_the_loss_of_samples_that_went_on_and_of_no_other(simulated_engine: Any) -> None:
    begun, filled, _, _ = cut_off_step(simulated_engine, mask=True)
    for sample in (s for g in filled.kept for s in g):
        status, tokens = begun.get(sample.sample_id, (Status.PENDING, []))
        if status is Status.ABORTED:
            assert sample.loss_mask == [0] * len(tokens) + [1] * (len(sample.tokens) - len(tokens))
        else:
            assert set(sample.loss_mask) == {1}


@pytest.mark.parametrize(("is_partial", "continues"), [(False, True), (True, False)])
def test_without_the_flag_or_a_generator_that_goes_on_an_unfinished_sample_starts_over(
    simulated_engine: Any, is_partial: bool, continues: bool
) -> None:
    begun, _, _, later = cut_off_step(simulated_engine, is_partial=is_partial, continues=continues)
    unfinished = [tokens for status, tokens in begun.values() if status not in (Status.COMPLETED, Status.TRUNCATED)]
    assert unfinished
    assert all(tokens == [] for tokens in unfinished)
    assert all(length == 2 for _, length in later)


def test_a_shut_gate_sends_nothing_and_waits_for_what_was_on_its_way(simulated_engine: Any) -> None:
    async def go() -> None:
        engine = simulated_engine(0)
        gate = Gate(engine, 2)
        asked = [asyncio.create_task(gate.generate([1], SamplingParams(50))) for _ in range(9)]
        await asyncio.sleep(0)
        await gate.shut()
        completions = await asyncio.gather(*asked)
        assert engine.max_running == len(engine.seeds) == 2
        assert not engine.running
        assert {c.finish_reason for c in completions[2:]} == {"abort"}
        assert (await gate.generate([1], SamplingParams(5))).tokens == []
        assert len(engine.seeds) == 2

    asyncio.run(go())


def test_a_request_that_the_engine_ends_by_itself_is_a_failure_and_not_a_cut(simulated_engine: Any) -> None:
    async def go() -> None:
        engine = simulated_engine(0)
        gate = Gate(engine, 2)
        asked = asyncio.create_task(gate.generate([1], SamplingParams(50)))
        await asyncio.sleep(0)
        await engine.abort_all()
        with pytest.raises(EngineError, match="by itself"):
            await asked

    asyncio.run(go())


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 5)), max_size=12), st.integers(0, 5))
def test_masking_takes_older_tokens_out_and_puts_none_in(tokens: list[tuple[int, int]], version: int) -> None:
    sample = Sample(0, 0, 0, "p", [1])
    for mask, own in tokens:
        sample.append([1], [0.0], [own], trainable=bool(mask))
    mask_older(sample, version)
    assert sample.loss_mask == [mask if own >= version else 0 for mask, own in tokens]


def test_a_fan_out_that_was_cut_off_is_made_anew_from_one_sample() -> None:
    buffer = a_buffer()
    siblings = [
        Sample(0, i, 0, "p", [1], tokens=[3], log_probs=[0.0], loss_mask=[1], weight_versions=[0]) for i in (0, 9)
    ]
    siblings[0].status, siblings[1].status = Status.COMPLETED, Status.ABORTED
    done = Sample(0, 1, 1, "p", [1], tokens=[3], status=Status.COMPLETED)
    buffer.add(Group(0, [*siblings, done]))
    (group,) = buffer.take(1)
    assert [(s.sample_id, s.status, s.tokens) for s in group] == [(0, Status.PENDING, []), (1, Status.COMPLETED, [3])]
