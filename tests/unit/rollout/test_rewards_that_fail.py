"""A rollout whose reward hangs or raises now and then: it goes on, and what happened is counted and named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimrl import AdvantageInput, Completion, Group, Sample, SamplingParams, Score, Status, registry
from slimrl.config import GrpoConfig
from slimrl.data.buffer import Buffer
from slimrl.errors import RolloutError
from slimrl.registry import Component, Options, RewardTable
from slimrl.rollout.batch import make_batch
from slimrl.rollout.evaluate import eval_metrics
from slimrl.rollout.loop import Filled, FillSettings, fill
from slimrl.rollout.metrics import rollout_metrics
from slimrl.rollout.produce import produce
from slimrl.rollout.unscored import find_unscored, first_failure, too_many, unscored_metrics
from slimrl.scoring import Scorer, ScoringSettings
from slimrl_filters.buffer import pop_first

REWARD = """
import time
def flaky(sample):
    if sample.sample_id % 50 == 7: time.sleep(1000)
    if sample.sample_id % 50 == 13: raise ValueError("no verdict")
    return float(sample.sample_id % 2)
"""


class FakeEngine:
    """Answers at once with one token."""

    async def generate(
        self, input_ids: list[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        return Completion([7], [-0.5], [0], "seven", "stop")


class Prompts:
    """Groups of ten samples."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> list[Group]:
        ids = range(self.next, self.next + count)
        self.next += count
        return [Group(g, [Sample(g, i, i, "p", [1, 2]) for i in range(g * 10, g * 10 + 10)]) for g in ids]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError


def run(tmp_path: Path, **settings: Any) -> Filled:
    (tmp_path / "reward.py").write_text(REWARD)
    plugins = registry.load(warn=False)
    reward = plugins.resolve("reward", f"{tmp_path}/reward.py:flaky")
    generate = plugins.resolve("generator", "single_turn").make(Options())

    async def go() -> Filled:
        table = RewardTable((Component("flaky", 1.0, reward),))
        async with Scorer(table, Options(), ScoringSettings(num_workers=2, timeout_s=0.4)) as scorer:
            make = partial(
                produce, generate=generate, engine=FakeEngine(), score=scorer.score, sampling=SamplingParams(4)
            )
            how = FillSettings(wanted=10, in_flight=10, max_finished=20, **settings)
            return await fill(Prompts(), Buffer(pop_first), make, None, how)

    return asyncio.run(go())


def test_one_hang_and_one_raise_in_fifty_are_counted_named_and_in_no_groups_mean(tmp_path: Path) -> None:
    filled = run(tmp_path, max_unscored_fraction=0.5)
    metrics = rollout_metrics(filled, version=0)
    assert metrics["rollout/unscored_timeout"] == metrics["rollout/unscored_timeout_flaky"] == 2
    assert metrics["rollout/unscored_error"] == metrics["rollout/unscored_error_flaky"] == 2
    assert metrics["rollout/unscored_abstained"] == 0
    assert metrics["rollout/unscored_ratio"] == 4 / 100
    assert 0.4 <= metrics["rollout/score_seconds_max"] < 2
    told = [entry.told() for entry in find_unscored(filled.kept)]
    assert {(entry["reward"], entry["status"]): entry["samples"] for entry in told} == {
        ("flaky", "timeout"): [7, 57],
        ("flaky", "error"): [13, 63],
    }
    batch = make_batch(0, filled.kept)
    assert sorted(set(range(100)) - set(batch.sample_ids.tolist())) == [7, 13, 57, 63]
    np.testing.assert_array_equal(batch.rewards, batch.sample_ids % 2)
    assert metrics["rollout/reward_mean"] == 46 / 96
    grpo = registry.load(warn=False).resolve("advantage", "grpo").make(Options([GrpoConfig()]))
    lengths = batch.response_lengths.astype(np.int64)
    seen = AdvantageInput(batch.rewards, batch.group_ids, batch.rollout_ids, lengths, batch.log_probs)
    advantages = grpo(seen)
    hung = advantages[batch.group_ids == 0]
    assert len(hung) == 9
    assert abs(float(hung.sum())) < 1e-4


def test_a_run_may_end_at_the_first_sample_that_cannot_be_scored(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match=r"reward flaky: (error|timeout) on sample \d+: .*--on-unscored stop"):
        run(tmp_path, stop_on_unscored=True)


def test_a_run_ends_when_more_than_its_share_cannot_be_scored(tmp_path: Path) -> None:
    with pytest.raises(RolloutError) as caught:
        run(tmp_path, max_unscored_fraction=0.03)
    said = str(caught.value)
    assert "4 of 100 samples could not be scored, more than --max-unscored-fraction 0.03" in said
    assert "reward flaky: timeout 2x: no result within 0.4 s (samples 7, 57)" in said
    assert "reward flaky: error 2x: the reward raised ValueError: no verdict" in said


def scored(number: int, score: Score | None) -> Sample:
    return Sample(0, number, number, "p", [1], tokens=[1], status=Status.COMPLETED, score=score)


def test_a_reward_may_abstain_as_often_as_it_likes() -> None:
    abstained = Group(0, [scored(i, Score("abstained", reason="no opinion", by="judge")) for i in range(9)])
    assert too_many([abstained], 0.0) == ""
    assert first_failure([abstained]) == ""
    metrics = unscored_metrics([abstained], "rollout/")
    assert metrics["rollout/unscored_abstained_judge"] == 9


def test_the_share_is_of_the_samples_that_a_reward_tried() -> None:
    outcomes = [Score.scored(1.0), Score("error", reason="x", by="r"), Score("abstained", reason="y", by="r")]
    group = Group(0, [scored(i, score) for i, score in enumerate(outcomes)])
    assert too_many([group], 0.5) == ""
    assert too_many([group], 0.49).startswith("1 of 2 samples")


def test_evaluation_counts_and_names_them_too() -> None:
    group = Group(0, [scored(0, Score.scored(1.0)), scored(1, Score("timeout", reason="slow", by="a judge/x"))])
    metrics = eval_metrics("held-out", [group])
    assert metrics["eval/held-out"] == 1.0
    assert metrics["eval/held-out-unscored_timeout"] == metrics["eval/held-out-unscored_timeout_a_judge_x"] == 1


def test_what_is_told_is_short_and_is_json() -> None:
    group = Group(0, [scored(i, Score("error", reason="no verdict", by="r")) for i in range(50)])
    (entry,) = find_unscored([group])
    assert json.loads(json.dumps(entry.told())) == {
        "reward": "r",
        "status": "error",
        "reason": "no verdict",
        "count": 50,
        "samples": [0, 1, 2, 3, 4],
    }
    assert str(entry) == "reward r: error 50x: no verdict (samples 0, 1, 2, 3, 4, ...)"
