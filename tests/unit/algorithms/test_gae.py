"""Returns and generalised advantages against the plain loop from a sample's last token to its first."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl.algorithms import gae as gae_module
from slimrl.algorithms.gae import discounted_returns, gae

lengths_of_samples = st.lists(st.one_of(st.integers(0, 5), st.integers(120, 400)), max_size=6)
factor = st.sampled_from((0.0, 0.5, 0.95, 1.0))


def slow_gae(rewards: np.ndarray, values: np.ndarray, lengths: np.ndarray, gamma: float, lambd: float) -> list[float]:
    advantages: list[float] = []
    end = 0
    for length in lengths:
        end += int(length)
        following_value, following_advantage = 0.0, 0.0
        backwards = []
        for t in range(end - 1, end - 1 - int(length), -1):
            delta = rewards[t] + gamma * following_value - values[t]
            following_advantage = delta + gamma * lambd * following_advantage
            following_value = values[t]
            backwards.append(following_advantage)
        advantages += backwards[::-1]
    return advantages


@given(lengths_of_samples, factor, factor, st.integers(0, 1000))
def test_gae_equals_the_plain_loop(lengths: list[int], gamma: float, lambd: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, sum(lengths))).astype(np.float32)
    found = gae(rewards, values, np.array(lengths, np.int64), gamma=gamma, lambd=lambd)
    expected = slow_gae(rewards.astype(float), values.astype(float), np.array(lengths), gamma, lambd)
    assert found.advantages == pytest.approx(np.array(expected), abs=1e-9)
    assert found.returns == pytest.approx(np.array(expected) + values, abs=1e-9)


@given(lengths_of_samples, factor, st.integers(0, 1000))
def test_returns_equal_the_plain_loop(lengths: list[int], gamma: float, seed: int) -> None:
    rewards = np.random.default_rng(seed).normal(size=sum(lengths))
    zeros = np.zeros_like(rewards)
    found = discounted_returns(rewards, np.array(lengths, np.int64), gamma)
    assert found == pytest.approx(np.array(slow_gae(rewards, zeros, np.array(lengths), gamma, 1.0)), abs=1e-9)


def test_returns_of_hand_worked_rewards() -> None:
    rewards = np.array([1.0, 0.0, 4.0, 2.0])
    assert discounted_returns(rewards, np.array([3, 0, 1]), 0.5).tolist() == [2.0, 2.0, 4.0, 2.0]


def test_gae_of_hand_worked_values() -> None:
    # deltas: 0 + 0.5 * 2 - 1 = 0, 1 - 2 = -1; then 3 - 1 = 2 in a sample of its own
    found = gae(np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 1.0]), np.array([2, 1]), gamma=0.5, lambd=0.5)
    assert found.advantages.tolist() == [-0.25, -1.0, 2.0]
    assert found.returns.tolist() == [0.75, 1.0, 3.0]


def test_a_long_sample_takes_one_step_of_the_loop_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = np.random.default_rng(0).normal(size=1000)
    expected = discounted_returns(rewards, np.array([1000]), 0.9)
    monkeypatch.setattr(gae_module, "CHUNK", 7)
    assert discounted_returns(rewards, np.array([1000]), 0.9) == pytest.approx(expected, abs=1e-9)


def test_millions_of_tokens_take_a_second() -> None:
    lengths = np.random.default_rng(0).integers(1, 4000, 1024)
    rewards = np.zeros(int(lengths.sum()), np.float32)
    started = time.process_time()
    gae(rewards, rewards, lengths, gamma=1.0, lambd=0.95)
    assert time.process_time() - started < 3.0
