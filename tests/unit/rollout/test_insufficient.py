"""A batch that its budget did not fill: what is taken after all, and which prompts are named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.data.buffer import Buffer
from slimrl.errors import RolloutError
from slimrl.rollout.insufficient import NeverVaried, fall_back, is_fallback, why_not_filled
from slimrl.rollout.loop import Filled, FillSettings, fill
from slimrl.rollout.metrics import rollout_metrics
from slimrl.types import Group, Sample, Score, Verdict

Values = list[float | None]


def judged(group_id: int, values: Values, verdict: Verdict | None = None, prompt: Any = "p") -> Group:
    samples = [Sample(group_id, i, i, prompt, [1]) for i in range(len(values))]
    for sample, value in zip(samples, values, strict=True):
        sample.append([1], [0.0], [0])
        sample.score = Score("error", reason="broke") if value is None else Score.scored(value)
    return Group(group_id, samples, verdict)


NO = Verdict(False, "no")
ALLOWED = Verdict(False, "no", keep_when_insufficient=True)


def test_groups_whose_filter_allows_it_come_first_then_the_most_varied() -> None:
    dropped = [
        judged(0, [1.0, 1.0], NO),
        judged(1, [0.0, 1.0], NO),
        judged(2, [0.0, 0.1], NO),
        judged(3, [1.0, 1.0], ALLOWED),
        judged(4, [None, None], ALLOWED),
    ]
    taken = fall_back(dropped, 3, any_group=True)
    assert [g.group_id for g in taken] == [3, 1, 2]
    assert [g.group_id for g in dropped] == [0, 4]
    assert all(is_fallback(g) and g.verdict == Verdict(True, "insufficient_no") for g in taken)


def test_without_a_fallback_only_what_the_filter_allows_is_taken() -> None:
    dropped = [judged(0, [0.0, 1.0], NO), judged(1, [0.0, 0.0], ALLOWED)]
    assert [g.group_id for g in fall_back(dropped, 2, any_group=False)] == [1]
    assert [g.group_id for g in dropped] == [0]


@given(
    st.lists(st.tuples(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=4), st.booleans()), max_size=8),
    st.integers(0, 9),
    st.booleans(),
)
def test_a_fallback_loses_no_group_and_takes_none_without_a_score(
    groups: list[tuple[Values, bool]], missing: int, any_group: bool
) -> None:
    dropped = [judged(i, values, ALLOWED if ok else NO) for i, (values, ok) in enumerate(groups)]
    taken = fall_back(dropped, missing, any_group=any_group)
    assert sorted(g.group_id for g in taken + dropped) == list(range(len(groups)))
    possible = [v for v, ok in groups if any(x is not None for x in v) and (ok or any_group)]
    assert len(taken) == min(missing, len(possible))
    assert all(any(s.value is not None for s in g) for g in taken)


class Endless:
    """Groups of two samples each."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> list[Group]:
        ids = range(self.next, self.next + count)
        self.next += count
        return [Group(g, [Sample(g, i, i, f"prompt {g % 2}", [1]) for i in (2 * g, 2 * g + 1)]) for g in ids]


def run(falls_back: bool, verdict: Verdict) -> Filled:
    async def produce(group: Group) -> Group:
        for sample in group:
            sample.append([1], [0.0], [0])
            sample.score = Score.scored(float(group.group_id % 2 and sample.sample_id % 2))
        return group

    async def go() -> Filled:
        how = FillSettings(2, 2, max_finished=6, in_order=True, falls_back=falls_back)
        return await fill(Endless(), Buffer(lambda b, n: []), produce, lambda g: verdict, how)  # type: ignore[arg-type]

    return asyncio.run(go())


def test_a_run_may_go_on_with_dropped_groups_and_says_so_in_the_metrics() -> None:
    filled = run(True, NO)
    assert [g.group_id for g in filled.kept] == [1, 3]
    metrics = rollout_metrics(filled, version=0)
    assert metrics["rollout/fallback_groups"] == 2
    assert metrics["rollout/filter_dropped_no"] == 4
    assert metrics["rollout/groups_finished"] == 6


def test_a_run_that_ends_names_the_prompts_that_do_not_vary() -> None:
    with pytest.raises(RolloutError, match=r"only 0 of 2 kept .*'prompt 0' \(3x, reward 0\)") as caught:
        run(False, NO)
    assert "prompt 1" not in str(caught.value)


def test_a_filter_that_allows_it_fills_the_batch_in_a_run_that_would_end() -> None:
    assert [g.group_id for g in run(False, ALLOWED).kept] == [1, 3]


def test_a_prompt_that_varied_once_is_not_told_again_and_state_comes_back() -> None:
    seen = NeverVaried()
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "x" * 200}]
    seen.observe([judged(0, [1.0, 1.0], prompt="a"), judged(1, [0.0, 1.0], prompt="b"), judged(2, [1.0], prompt="c")])
    seen.observe([judged(3, [1.0, 1.0, None], prompt="a"), judged(4, [0.0, 0.0], prompt="b")])
    seen.observe([judged(5, [0.0, 0.0], prompt=chat)])
    assert [p.told() for p in seen.prompts] == [
        {"prompt": "a", "seen": 2, "reward": 1.0},
        {"prompt": "x" * 77 + "...", "seen": 1, "reward": 0.0},
    ]
    other = NeverVaried()
    other.restore(json.loads(json.dumps(seen.state())))
    other.observe([judged(6, [0.0, 0.5], prompt="a"), judged(7, [0.0, 0.0], prompt="b")])
    assert [p.beginning for p in other.prompts] == ["x" * 77 + "..."]


def test_an_error_says_what_failed_and_the_way_out() -> None:
    said = why_not_filled(1, 4, [judged(0, [None, None], Verdict(False, "unscored")), judged(1, [0.5, 0.5], NO)])
    assert said.startswith("3 groups were finished but only 1 of 4 kept (dropped: unscored 1x, no 1x; broke (2x))")
    assert "'p' (1x, reward 0.5)" in said
    assert "--on-insufficient fallback" in said
