"""Micro-batches and optimizer steps: every sample once, limits kept."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.algorithms.packing import plan_micro_batches, split_rollouts

sizes_and_clusters = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 4)), max_size=40)


@given(sizes_and_clusters, st.integers(1, 60))
def test_every_sample_is_in_one_micro_batch_within_the_limit(samples: list[tuple[int, int]], limit: int) -> None:
    sizes, clusters = [s for s, _ in samples], [c for _, c in samples]
    plan = plan_micro_batches(sizes, clusters, max_tokens=limit)
    assert sorted(i for batch in plan for i in batch) == list(range(len(samples)))
    assert all(sum(sizes[i] for i in batch) <= limit or len(batch) == 1 for batch in plan)


@given(sizes_and_clusters, st.integers(1, 10))
def test_micro_batches_by_samples_are_consecutive(samples: list[tuple[int, int]], limit: int) -> None:
    plan = plan_micro_batches([s for s, _ in samples], [c for _, c in samples], max_samples=limit)
    assert [i for batch in plan for i in batch] == list(range(len(samples)))
    assert all(len(batch) == limit for batch in plan[:-1])


def test_a_group_that_fits_stays_together() -> None:
    assert plan_micro_batches([6, 4, 4, 5, 5], [0, 1, 1, 2, 2], max_tokens=14) == [[0, 1, 2], [3, 4]]


def test_an_over_long_sample_goes_alone() -> None:
    assert plan_micro_batches([3, 99, 3], [0, 0, 0], max_tokens=10) == [[0, 2], [1]]


def test_planning_thousands_of_samples_takes_less_than_a_second() -> None:
    lengths = np.random.default_rng(0).integers(100, 4000, 8000).tolist()
    started = time.process_time()
    plan_micro_batches(lengths, list(range(8000)), max_tokens=8192)
    assert time.process_time() - started < 1.0


def test_steps_are_whole_rollouts_in_order_of_appearance() -> None:
    rollout_ids = np.array([7, 7, 3, 9, 3, 5])
    steps = split_rollouts(rollout_ids, num_steps=2, rollouts_per_step=2)
    assert [step.tolist() for step in steps] == [[0, 1, 2, 4], [3, 5]]


def test_missing_rollouts_leave_smaller_or_empty_steps() -> None:
    steps = split_rollouts(np.array([1, 2, 3]), num_steps=2, rollouts_per_step=2)
    assert [step.tolist() for step in steps] == [[0, 1], [2]]
    steps = split_rollouts(np.array([1]), num_steps=2, rollouts_per_step=2)
    assert [step.tolist() for step in steps] == [[0], []]


def test_too_many_rollouts_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rollouts do not fit in 2 optimizer steps of 2"):
        split_rollouts(np.arange(5), num_steps=2, rollouts_per_step=2)


def test_give_exactly_one_limit() -> None:
    with pytest.raises(ValueError, match="not both"):
        plan_micro_batches([1], [0], max_samples=1, max_tokens=1)
