"""Packing: what is trained on, in which order, and what is left out."""

from __future__ import annotations

import numpy as np

from slimrl.rollout.batch import make_batch
from slimrl.rollout.loop import Filled
from slimrl.rollout.metrics import rollout_metrics
from slimrl.types import Group, Sample, Score, Status, Verdict


def sample(sample_id: int, tokens: list[int], score: Score | None) -> Sample:
    made = Sample(sample_id // 2, sample_id, sample_id, "p", [1, 2, 3], status=Status.COMPLETED)
    made.append(tokens, [-0.5] * len(tokens), [4] * len(tokens))
    made.score = score
    return made


def groups() -> list[Group]:
    return [
        Group(1, [sample(2, [9], Score.scored(1.0)), sample(3, [8, 8], Score("error", reason="x"))], Verdict(True)),
        Group(0, [sample(0, [7, 6], Score.scored(0.0)), sample(1, [], Score.scored(1.0))], Verdict(True)),
    ]


def test_samples_come_in_id_order_and_unscored_or_empty_ones_are_left_out() -> None:
    batch = make_batch(3, groups())
    assert batch.sample_ids.tolist() == [0, 2]
    assert batch.tokens.tolist() == [1, 2, 3, 7, 6, 1, 2, 3, 9]
    assert batch.response_lengths.tolist() == [2, 1]
    assert batch.rewards.tolist() == [0.0, 1.0]
    assert batch.loss_mask.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(batch.weight_versions, [4, 4, 4])


def test_an_unscored_sample_is_no_zero_in_the_mean() -> None:
    metrics = rollout_metrics(Filled(kept=groups()), version=6)
    assert metrics["rollout/reward_mean"] == 2 / 3
    assert metrics["rollout/unscored_ratio"] == 1 / 4
    assert metrics["rollout/staleness_max"] == metrics["rollout/staleness_mean"] == 2
    assert metrics["rollout/zero_std_groups"] == 1


def test_the_age_of_tokens_is_told_as_a_histogram_of_those_that_are_trained() -> None:
    made = Sample(0, 0, 0, "p", [1], status=Status.COMPLETED, score=Score.scored(1.0))
    made.append([5, 5, 5], [-0.5] * 3, [3, 4, 5])
    made.append([6], [0.0], [0], trainable=False)
    made.append([7], [-0.5], [5])
    metrics = rollout_metrics(Filled(kept=[Group(0, [made], Verdict(True))]), version=5)
    shares = [metrics[f"rollout/staleness_{age}_share"] for age in range(3)]
    assert shares == [0.5, 0.25, 0.25]
    assert metrics["rollout/staleness_mean"] == 0.75
    assert metrics["rollout/staleness_max"] == 2


def test_lengths_rewards_and_repetition_of_a_batch_are_told() -> None:
    texts = ["ab " * 4000, "".join(chr(97 + i * i % 23 + i // 7 % 3) for i in range(9000)), "short", "x"]
    made = []
    for i, text in enumerate(texts):
        sample = Sample(0, i, i, "p", [1], response=text, status=Status.COMPLETED, score=Score.scored(i / 4))
        sample.append([5] * (i * i + 1), [-0.5] * (i * i + 1), [0] * (i * i + 1))
        made.append(sample)
    metrics = rollout_metrics(Filled(kept=[Group(0, made, Verdict(True))]), version=0)
    lengths = [metrics[f"rollout/response_len_{name}"] for name in ("mean", "median", "min", "max")]
    assert lengths == [18 / 4, 3.5, 1, 10]
    assert [metrics[f"rollout/reward_{name}"] for name in ("min", "max")] == [0, 0.75]
    assert metrics["rollout/repetition_ratio"] == 1 / 4
