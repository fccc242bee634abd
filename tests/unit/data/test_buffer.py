"""The buffer keeps finished groups whole and starts cut-off ones over."""

from __future__ import annotations

import json

from slimrl.data.buffer import Buffer
from slimrl.types import Group, Sample, Score, Status, Verdict
from slimrl_filters.buffer import pop_first


def group(group_id: int, *, scored: bool) -> Group:
    sample = Sample(group_id, group_id, group_id, "p", [1], label={"a": 1})
    sample.append([5, 6], [-0.5, -0.25], [0, 1], text="ab")
    sample.status = Status.COMPLETED
    if scored:
        sample.score = Score.scored(1.0, components={"x": 1.0})
    return Group(group_id, [sample], verdict=Verdict(True) if scored else None)


def test_a_finished_group_is_kept_whole_and_a_cut_off_one_starts_over() -> None:
    buffer = Buffer(pop_first)
    buffer.add(group(0, scored=True))
    buffer.add(group(1, scored=False))
    finished, cut_off = buffer.take(5)
    assert finished.samples[0].tokens == [5, 6]
    assert finished.samples[0].value == 1.0
    assert cut_off.samples[0].tokens == cut_off.samples[0].log_probs == cut_off.samples[0].loss_mask == []
    assert cut_off.samples[0].status is Status.PENDING
    assert buffer.take(5) == []


def test_a_saved_buffer_comes_back_equal() -> None:
    buffer = Buffer(pop_first)
    buffer.add(group(0, scored=True))
    buffer.add(group(1, scored=False))
    state = json.loads(json.dumps(buffer.state()))
    other = Buffer(pop_first)
    other.restore(state)
    assert other.groups == buffer.groups
