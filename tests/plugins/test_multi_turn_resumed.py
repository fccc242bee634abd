"""A conversation of multi_turn that was cut off: it goes on as if it never was."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import (
    ChatTemplate,
    Completion,
    Group,
    Sample,
    SamplingParams,
    Status,
)
from slimrl.rollout.produce import produce
from slimrl.testing.fake_engine import FakeEngine, to_text
from slimrl_generators.multi_turn import multi_turn
from slimrl_generators.user_function import outside


class CuttingEngine(FakeEngine):
    """Says what an uninterrupted sample says, and is aborted at the places that are given, counted in tokens."""

    def __init__(self, whole: Sample, cuts: Sequence[int]) -> None:
        super().__init__()
        self._whole, self._cuts = whole, sorted(cuts)

    async def generate(self, input_ids: Sequence[int], sampling: SamplingParams, **kwargs: Any) -> Completion:
        whole = self._whole
        begin = len(input_ids) - len(whole.prompt_tokens)
        assert list(input_ids) == (whole.prompt_tokens + whole.tokens)[: len(input_ids)]
        end = next((i for i in range(begin, len(whole.tokens)) if not whole.loss_mask[i]), len(whole.tokens))
        assert whole.loss_mask[begin] == 1
        is_cut = bool(self._cuts) and self._cuts[0] < end
        if is_cut:
            end = max(begin, self._cuts.pop(0))
        tokens, log_probs = whole.tokens[begin:end], whole.log_probs[begin:end]
        finish = "abort" if is_cut else "stop" if tokens[-1] == 0 else "length"
        return Completion(tokens, log_probs, [1] * len(tokens), to_text(tokens), finish, "cut" if is_cut else "")


def revived(sample: Sample) -> Sample:
    """A sample as it comes back from a checkpoint, made ready as a partial rollout does."""
    values = json.loads(json.dumps(asdict(sample)))
    return Sample(**{**values, "status": Status.PENDING, "reason": ""})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 90), max_size=6), st.integers(20, 40))
def test_a_sample_cut_off_anywhere_goes_on_as_if_it_never_was(
    conversation: Any, template: ChatTemplate, cuts: list[int], budget: int
) -> None:
    def count(sample: Sample, reply: str) -> str | None:
        sample.metadata["count"] = sample.metadata.get("count", 0) + 1
        return f"Not {sample.metadata['count']}." if sample.metadata["count"] < 4 else None

    sampling = SamplingParams(max_new_tokens=budget, sampling_seed=7)
    whole = conversation.fill(template, count, FakeEngine("It is ü."), conversation.pending(a=1), sampling=sampling)
    engine, sample = CuttingEngine(whole, cuts), conversation.pending(a=1)
    for _ in range(len(cuts) + 1):
        sample = conversation.fill(template, count, engine, revived(sample), sampling=sampling)
        if sample.status is not Status.ABORTED:
            break
        assert sample.reason == "cut"
        assert len({len(sample.tokens), len(sample.log_probs), len(sample.loss_mask), len(sample.weight_versions)}) == 1
    assert asdict(sample) == asdict(whole)


def test_a_sample_that_starts_over_has_the_metadata_that_it_was_given(
    conversation: Any, template: ChatTemplate
) -> None:
    sample = conversation.fill(
        template, conversation.ask_twice, FakeEngine(["It is 8.", "7"]), conversation.pending(a=1)
    )
    for per_token in (sample.tokens, sample.log_probs, sample.loss_mask, sample.weight_versions):
        per_token.clear()
    sample.response, sample.status = "", Status.PENDING  # as the buffer does
    again = conversation.fill(template, conversation.ask_twice, FakeEngine(["9", "7"]), sample)
    assert {key: value for key, value in again.metadata.items() if key != "multi_turn"} == {"a": 1, "seen": ["9", "7"]}


def test_what_another_generator_began_is_the_begin_of_the_first_reply(
    conversation: Any, template: ChatTemplate
) -> None:
    sample = conversation.pending()
    sample.append(list(b"It "), [-0.5] * 3, [0] * 3, text="It ")
    sample = conversation.fill(template, conversation.ask_twice, FakeEngine(["is 8.", "7"]), sample)
    assert sample.metadata["seen"] == ["It is 8.", "7"]
    assert conversation.parts(sample)[0] == (1, "It is 8.>")


def test_a_run_that_stops_while_the_environment_thinks_goes_on_with_its_answer(
    conversation: Any, template: ChatTemplate
) -> None:
    sample, thinking = conversation.pending(), threading.Event()

    async def cut_off() -> None:
        async def think(sample: Sample, reply: str) -> str:
            sample.metadata["touched"] = True
            thinking.set()
            await asyncio.sleep(3600)
            return "never"

        generate = multi_turn(outside(think), lambda: template, 8, 7200)
        work = asyncio.ensure_future(generate(sample, conversation.SAMPLING, FakeEngine("It is 8.")))
        await asyncio.to_thread(thinking.wait)
        work.cancel()
        await asyncio.wait({work}, timeout=10)
        assert work.cancelled()

    asyncio.run(cut_off())
    assert (sample.status, conversation.parts(sample)) == (Status.ABORTED, [(1, "It is 8.>")])
    assert "touched" not in sample.metadata
    engine = FakeEngine("7")
    sample = conversation.fill(template, conversation.ask_twice, engine, revived(sample))
    assert sample.metadata["seen"] == ["It is 8.", "7"]
    assert len(engine.requests) == 1


def test_a_sample_is_tried_again_from_its_own_metadata(conversation: Any, template: ChatTemplate) -> None:
    tries: list[Any] = []

    def fail_once(sample: Sample, reply: str) -> None:
        tries.append(sample.metadata.get("touched"))
        sample.metadata["touched"] = True
        if len(tries) == 1:
            raise ConnectionError("lost")

    sample = conversation.pending()
    generate = multi_turn(outside(fail_once), lambda: template, 8, 30)

    async def no_score(group: Group) -> None: ...

    asyncio.run(produce(Group(0, [sample]), generate, FakeEngine("7"), no_score, conversation.SAMPLING, retries=1))
    assert (sample.status, tries) == (Status.COMPLETED, [None, None])
