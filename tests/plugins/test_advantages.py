"""Advantage estimators: hand-worked groups, loops over groups and tokens, fan-outs and samples without a score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import AdvantageInput, Advantages, TokenAdvantage, UsageError
from slimrl.config import GrpoConfig
from slimrl.registry import load
from slimrl.testing import suite
from slimrl.traits import advantage_traits_of

REGISTRY = load(warn=False)
GROUP_RELATIVE = ("grpo", "gspo", "cispo", "rloo", "dr_grpo", "reinforce_plus_plus_baseline")
ALL = (*GROUP_RELATIVE, "reinforce_plus_plus", "ppo")

rewards_of_groups = st.lists(
    st.tuples(st.integers(0, 3), st.floats(-10, 10, width=32), st.integers(0, 3)), min_size=1, max_size=30
)
"""Group, reward, and how many trained tokens there are."""


def estimator(name: str, **settings: Any) -> TokenAdvantage:
    made: TokenAdvantage = REGISTRY.resolve("advantage", name).make({GrpoConfig: GrpoConfig(**settings)})
    return made


def rollout(
    rewards: list[float],
    group_ids: list[int],
    rollout_ids: list[int] | None = None,
    num_tokens: list[int] | None = None,
    **of_tokens: list[float],
) -> AdvantageInput:
    lengths = [1] * len(rewards) if num_tokens is None else num_tokens
    arrays = {name: np.array(values, np.float32) for name, values in of_tokens.items()}
    return AdvantageInput(
        rewards=np.array(rewards, np.float32),
        group_ids=np.array(group_ids, np.int64),
        rollout_ids=np.array(range(len(rewards)) if rollout_ids is None else rollout_ids, np.int64),
        num_tokens=np.array(lengths, np.int64),
        rollout_log_probs=np.zeros(sum(lengths), np.float32),
        **arrays,
    )


def advantages(name: str, seen: AdvantageInput, **settings: Any) -> list[float]:
    made = estimator(name, **settings)(seen)
    assert not isinstance(made, Advantages)
    assert made.dtype == np.float32
    return made.tolist()


@pytest.mark.parametrize("name", ALL)
def test_it_passes_every_check_of_an_estimator(name: str) -> None:
    assert [f for f in suite("advantage", name) if f.outcome != "ok"] == []


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
def test_rewards_are_centred_and_divided_by_the_unbiased_deviation(name: str) -> None:
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-6)
    found = advantages(name, rollout([1, 0, 1, 0], [5] * 4))
    assert found == pytest.approx([expected, -expected, expected, -expected])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"disable_grpo_std_normalization": True}),
        ("gspo", {"disable_grpo_std_normalization": True}),
        ("cispo", {"disable_grpo_std_normalization": True}),
        ("dr_grpo", {}),
        ("reinforce_plus_plus_baseline", {}),
    ],
)
def test_without_std_normalisation_rewards_are_only_centred(name: str, settings: dict[str, Any]) -> None:
    # A fourth sample, the second of the group, has no score and is not there.
    assert advantages(name, rollout([1, 0, 0], [0] * 3), **settings) == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_rloo_compares_with_the_others_of_the_group() -> None:
    # Others' means: 0, 1/2, 1/2; and a sample whose group has no other with a score.
    found = advantages("rloo", rollout([1, 0, 0, 5], [0, 0, 0, 1]))
    assert found == pytest.approx([1, -0.5, -0.5, 0])


def test_siblings_of_a_fan_out_count_as_one_rollout() -> None:
    # Rollouts of group 0: (1, 1), 0 and 0. Those of group 1: (4, 0) and 0, so the mean is 1.
    seen = rollout([1, 1, 0, 0, 4, 0, 0], [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 3, 3, 4])
    assert advantages("dr_grpo", seen) == pytest.approx([2 / 3, 2 / 3, -1 / 3, -1 / 3, 3, -1, -1])
    assert advantages("rloo", seen) == pytest.approx([1, 1, -0.5, -0.5, 4, 0, -2])
    deviations = [math.sqrt((4 / 9 + 2 / 9) / 2)] * 4 + [math.sqrt((9 + 1) / 2 + 1)] * 3
    expected = [a / (d + 1e-6) for a, d in zip([2 / 3, 2 / 3, -1 / 3, -1 / 3, 3, -1, -1], deviations, strict=True)]
    assert advantages("grpo", seen) == pytest.approx(expected)


def test_as_many_equal_siblings_in_every_rollout_change_nothing() -> None:
    alone = rollout([3, 1, 0], [0, 0, 0])
    twice = rollout([3, 3, 1, 1, 0, 0], [0] * 6, [0, 0, 1, 1, 2, 2])
    for name in GROUP_RELATIVE:
        assert advantages(name, twice)[::2] == pytest.approx(advantages(name, alone))


@pytest.mark.parametrize("name", GROUP_RELATIVE)
def test_groups_are_told_apart_by_id_not_by_place_or_size(name: str) -> None:
    together = advantages(name, rollout([1, 0, 5, 1, 2], [7, 7, 3, 3, 3]))
    apart = advantages(name, rollout([5, 1, 1, 0, 2], [3, 7, 3, 7, 3]))
    assert [apart[1], apart[3], apart[0], apart[2], apart[4]] == together


@pytest.mark.parametrize("name", GROUP_RELATIVE)
def test_a_single_sample_and_equal_rewards_give_exactly_zero(name: str) -> None:
    assert advantages(name, rollout([0.3, 0.1, 0.1, 0.1], [0, 1, 1, 1])) == [0, 0, 0, 0]


@given(rewards_of_groups, st.sampled_from(("grpo", "dr_grpo", "rloo")))
def test_group_relative_advantages_equal_a_loop_over_groups(samples: list[tuple[int, float, int]], name: str) -> None:
    group_ids = [group for group, _, _ in samples]
    found = advantages(name, rollout([reward for _, reward, _ in samples], group_ids))
    for i, (group, reward, _) in enumerate(samples):
        own = np.array([r for g, r, _ in samples if g == group], np.float64)
        others = np.array([r for j, (g, r, _) in enumerate(samples) if g == group and j != i], np.float64)
        if name == "rloo":
            expected = reward - others.mean() if len(others) else 0.0
        else:
            expected = reward - own.mean()
            if name == "grpo" and len(own) > 1:
                expected /= own.std(ddof=1) + 1e-6
        if own.min() == own.max():
            expected = 0.0
        assert found[i] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for group in set(group_ids):
        assert sum(a for a, g in zip(found, group_ids, strict=True) if g == group) == pytest.approx(0, abs=1e-3)


def slow_token_rewards(seen: AdvantageInput, kl_coef: float) -> list[list[float]]:
    """With the estimator k1, one list a sample."""
    assert seen.log_probs is not None and seen.ref_log_probs is not None
    found, place = [], 0
    for reward, length in zip(seen.rewards.tolist(), seen.num_tokens.tolist(), strict=True):
        own = [
            -kl_coef * (float(seen.log_probs[t]) - float(seen.ref_log_probs[t])) for t in range(place, place + length)
        ]
        if own:
            own[-1] += reward
        found.append(own)
        place += length
    return found


def of_tokens(samples: list[tuple[int, float, int]], seed: int) -> AdvantageInput:
    lengths = [length for _, _, length in samples]
    chance = np.random.default_rng(seed)
    return rollout(
        [reward for _, reward, _ in samples],
        [group for group, _, _ in samples],
        num_tokens=lengths,
        **{name: chance.normal(size=sum(lengths)).tolist() for name in ("log_probs", "ref_log_probs", "values")},
    )


@given(rewards_of_groups, st.integers(0, 99), st.sampled_from((0.0, 0.1)), st.sampled_from((0.9, 1.0)))
def test_reinforce_plus_plus_equals_a_loop_over_tokens(
    samples: list[tuple[int, float, int]], seed: int, kl_coef: float, gamma: float
) -> None:
    seen = of_tokens(samples, seed)
    expected = []
    for own in slow_token_rewards(seen, kl_coef):
        for t in range(len(own)):
            expected.append(sum(gamma ** (later - t) * own[later] for later in range(t, len(own))))
    found = advantages("reinforce_plus_plus", seen, kl_coef=kl_coef, gamma=gamma)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(rewards_of_groups, st.integers(0, 99), st.sampled_from((0.0, 0.1)))
def test_reinforce_plus_plus_baseline_is_the_centred_reward_less_the_penalty(
    samples: list[tuple[int, float, int]], seed: int, kl_coef: float
) -> None:
    seen = of_tokens(samples, seed)
    expected, place = [], 0
    for group, reward, length in samples:
        mean = np.mean([r for g, r, _ in samples if g == group])
        for t in range(place, place + length):
            penalty = kl_coef * (float(seen.log_probs[t]) - float(seen.ref_log_probs[t]))  # type: ignore[index]
            expected.append(reward - mean - penalty)
        place += length
    found = advantages("reinforce_plus_plus_baseline", seen, kl_coef=kl_coef)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(rewards_of_groups, st.integers(0, 99), st.sampled_from((0.0, 0.1)), st.sampled_from((0.9, 1.0)))
def test_ppo_equals_the_backward_loop(
    samples: list[tuple[int, float, int]], seed: int, kl_coef: float, gamma: float
) -> None:
    seen, lambd = of_tokens(samples, seed), 0.8
    assert seen.values is not None
    values, expected, place = seen.values.astype(float), [], 0
    for own in slow_token_rewards(seen, kl_coef):
        following_value = following = 0.0
        backwards = []
        for t in reversed(range(len(own))):
            following = own[t] + gamma * following_value - values[place + t] + gamma * lambd * following
            following_value = values[place + t]
            backwards.append(following)
        expected += backwards[::-1]
        place += len(own)
    made = estimator("ppo", kl_coef=kl_coef, gamma=gamma, lambd=lambd)(seen)
    assert isinstance(made, Advantages) and made.returns is not None
    assert made.advantages.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert made.returns.tolist() == pytest.approx((np.array(expected) + values).tolist(), rel=1e-5, abs=1e-5)


def test_the_reward_is_on_the_last_trained_token() -> None:
    seen = rollout([2, 7, 4], [0, 1, 2], num_tokens=[3, 0, 1])
    assert advantages("reinforce_plus_plus", seen, gamma=0.5) == [0.5, 1, 2, 4]


def test_a_penalty_without_the_log_probs_it_is_made_of_is_refused() -> None:
    for name in ("reinforce_plus_plus", "reinforce_plus_plus_baseline"):
        with pytest.raises(UsageError, match=r"--kl-coef 0\.1 needs log-probs of the policy and of the reference"):
            estimator(name, kl_coef=0.1)(rollout([1], [0]))
    with pytest.raises(UsageError, match="ppo needs a critic's values"):
        estimator("ppo")(rollout([1], [0]))


def test_the_penalty_is_of_the_kind_that_kl_loss_type_names() -> None:
    seen = rollout([0], [0], log_probs=[-1], ref_log_probs=[-3])
    assert advantages("reinforce_plus_plus", seen, kl_coef=0.5, kl_loss_type="k2") == [-1.0]


def test_no_samples_have_no_advantages() -> None:
    for name in (*GROUP_RELATIVE, "reinforce_plus_plus"):
        assert advantages(name, rollout([], [])) == []


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo", "reinforce_plus_plus_baseline"])
def test_rewards_may_be_taken_as_they_are(name: str) -> None:
    seen = rollout([1, 3, 3, 0], [0, 0, 1, 2], [0, 1, 2, 3])
    assert advantages(name, seen, disable_rewards_normalization=True) == [1, 3, 3, 0]
    traits = advantage_traits_of(estimator(name, disable_rewards_normalization=True))
    assert not traits.compares_group
    assert "disable_rewards_normalization" in traits.heeds


def test_the_penalty_comes_off_rewards_that_are_taken_as_they_are() -> None:
    seen = rollout([2], [0], log_probs=[-1], ref_log_probs=[-3])
    found = advantages("reinforce_plus_plus_baseline", seen, disable_rewards_normalization=True, kl_coef=0.5)
    assert found == [2 - 0.5 * 2]


def test_only_estimators_that_compare_a_group_refuse_groups_of_one() -> None:
    compare = {name for name in ALL if advantage_traits_of(estimator(name)).compares_group}
    assert compare == set(GROUP_RELATIVE)


def test_the_estimator_that_the_page_shows_passes_every_check(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/algorithms.md").read_text(encoding="utf-8")
    (tmp_path / "surprise.py").write_text(page.split("```python\n")[1].split("```")[0])
    assert [f for f in suite("advantage", f"{tmp_path}/surprise.py:surprise") if f.outcome != "ok"] == []


def test_each_estimator_names_its_loss() -> None:
    losses = {name: advantage_traits_of(estimator(name)).policy_loss for name in ALL}
    assert losses == dict.fromkeys(ALL, "clipped") | {"gspo": "gspo", "cispo": "cispo"}
    assert [name for name in ALL if advantage_traits_of(estimator(name)).divides_by_max_length] == ["dr_grpo"]
