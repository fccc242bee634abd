"""What a replay compares, apart from runs (tests/e2e/test_replay.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slimrl import Group, Sample, Score, Status
from slimrl.checkpoints import new_checkpoint
from slimrl.errors import CheckpointError
from slimrl.replay import EXACT, OTHER_KIND, SAME_KIND, ReplayedTraining, check_rewards, compare
from slimrl.types import TrainBatch, TrainReport


def sample(sample_id: int, score: Score | None) -> Sample:
    return replace(
        Sample(0, sample_id, sample_id, "1 + 1", [5], status=Status.COMPLETED), tokens=[7], loss_mask=[1], score=score
    )


def test_the_largest_difference_is_told_with_both_values() -> None:
    recorded = {"sample 1": 1.0, "sample 2": 0.5, "sample 3": 0.0}
    check = compare(4, "rewards", recorded, {"sample 1": 1.0, "sample 2": 0.25, "sample 3": 0.1}, EXACT)
    assert (check.compared, check.different, check.largest) == (3, 2, 0.25)
    assert check.where == "sample 2: recorded 0.5, now 0.25"


def test_differences_within_the_tolerance_are_told_and_do_not_count() -> None:
    check = compare(0, "loss", {"train/loss": 1.0}, {"train/loss": 1.0005}, SAME_KIND)
    assert (check.different, check.where) == (0, "")
    assert math.isclose(check.largest, 0.0005, rel_tol=1e-6)
    assert compare(0, "loss", {"train/loss": 1.0}, {"train/loss": 1.04}, SAME_KIND).different == 1
    assert compare(0, "loss", {"train/loss": 1.0}, {"train/loss": 1.04}, OTHER_KIND).different == 0


def test_a_value_that_only_one_side_has_differs() -> None:
    check = compare(0, "advantages", {"sample 1": 0.1}, {"sample 1": 0.1, "sample 2": 0.3}, EXACT)
    assert (check.compared, check.different, check.largest) == (2, 1, math.inf)
    assert check.where == "sample 2: recorded nothing, now 0.3"


def test_a_reward_that_fails_on_every_sample_is_left_out_and_on_some_is_a_difference() -> None:
    recorded = [Group(0, [sample(i, Score.scored(1.0, reason="")) for i in range(2)])]
    broken = Score(status="error", reason="no server")
    all_failed = check_rewards(0, recorded, [Group(0, [sample(i, broken) for i in range(2)])])
    assert (all_failed.compared, all_failed.left_out) == (0, "the reward cannot be run: no server")
    some = [Group(0, [sample(0, broken), sample(1, Score.scored(1.0, reason=""))])]
    assert check_rewards(0, recorded, some).where == "sample 0: recorded 1, now error"


class Trainer:
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def load(self, checkpoint: Path | None) -> None:
        self.calls.append(checkpoint)

    def train(self, batch: TrainBatch) -> TrainReport:
        self.calls.append(batch)
        return TrainReport({}, np.zeros(0, np.float32))


def replayed(trainer: Trainer, *, catch_up: bool) -> Callable[[int], object]:
    starts = {0: None, 3: Path("three")}
    training = ReplayedTraining(lambda: trainer, starts, lambda step: step, catch_up=catch_up)  # type: ignore[arg-type, return-value]
    return lambda step: training.report(step, step)  # type: ignore[arg-type]


def test_steps_in_order_go_on_from_each_other_and_from_each_checkpoint() -> None:
    trainer = Trainer()
    report = replayed(trainer, catch_up=False)
    for step in range(5):
        assert isinstance(report(step), TrainReport)
    assert trainer.calls == [None, 0, 1, 2, Path("three"), 3, 4]


def test_a_damaged_checkpoint_keeps_from_no_step_but_its_own(tmp_path: Path) -> None:
    starts: dict[int, Path | None] = {}
    for step in (1, 2):
        with new_checkpoint(tmp_path, step, tmp_path) as scratch:
            (scratch / "weights").write_text("all of them")
        starts[step] = tmp_path / f"iter_000000{step}"
    (tmp_path / "iter_0000001" / "weights").write_text("all of")
    training = ReplayedTraining(lambda: Trainer(), starts, lambda step: step, catch_up=False)  # type: ignore[arg-type, return-value]
    assert isinstance(training.report(2, 2), TrainReport)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="iter_0000001 is damaged: weights changed"):
        training.report(1, 1)  # type: ignore[arg-type]


def test_a_step_without_weights_is_told_or_reached_through_the_steps_before() -> None:
    trainer = Trainer()
    said = replayed(trainer, catch_up=False)(5)
    assert said == (
        "no weights of step 5; those of these steps are there: 0, 3; --catch-up trains on the stored steps from 3 on"
    )
    assert trainer.calls == []
    assert isinstance(replayed(trainer, catch_up=True)(5), TrainReport)
    assert trainer.calls == [Path("three"), 3, 4, 5]
