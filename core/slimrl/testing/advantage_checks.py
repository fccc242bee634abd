"""What must hold for every advantage estimator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from slimrl.estimator import takes_rollout
from slimrl.protocols import Advantage, TokenAdvantage
from slimrl.testing.finding import Check, Word, failure, ok, warning
from slimrl.types import AdvantageInput, Advantages

Rewards = NDArray[np.float32]
Ids = NDArray[np.int64]
Estimate = Callable[[Rewards, Ids], Rewards]

TOKENS: Final = 2
"""Trained tokens of every sample, where an estimator wants to know."""
SLOW_S: Final = 1.0
TOLERANCE: Final = 1e-4


def _batch(*groups: list[float]) -> tuple[Rewards, Ids]:
    """Rewards of groups one after the other; ids are far apart and in no order."""
    ids = [place * 37 % 101 for place, group in enumerate(groups) for _ in group]
    return np.array([value for group in groups for value in group], np.float32), np.array(ids, np.int64)


EQUAL: Final = _batch([0, 1, 1, 0], [1, 0, 0, 0], [0.25, 0.5, 0.75, 1])
UNEQUAL: Final = _batch([0, 1], [1, 0, 0.5, 0.25, 1], [2, -1, 0.5])
ONE: Final = _batch([1], [0, 1, 1], [0])
CONSTANT: Final = _batch([1, 1, 1], [0, 0, 0], [0.1, 0.1, 0.1])
LONE: Final = _batch([1])
HUGE: Final = _batch([1e6, -1e6, 0], [1e-6, 0, 0])


def _finite(estimate: Estimate, *batches: tuple[Rewards, Ids]) -> Word:
    for rewards, ids in batches:
        found = np.asarray(estimate(rewards.copy(), ids.copy()))
        if found.shape != rewards.shape:
            return failure(
                f"{len(rewards)} rewards gave an array of shape {found.shape}; return one number a sample or one a "
                "trained token"
            )
        if not np.issubdtype(found.dtype, np.floating):
            return failure(f"it returned an array of {found.dtype}; advantages are floating-point numbers")
        if not np.isfinite(found).all():
            return failure(f"of the rewards {_told(rewards)} in groups {_told(ids)} it made {_told(found)}")
    return ok()


def one_each(estimate: Estimate) -> Word:
    """The common case."""
    return _finite(estimate, EQUAL, HUGE)


def unequal_groups(estimate: Estimate) -> Word:
    """Samples without a score are left out, so groups are rarely of one size."""
    return _finite(estimate, UNEQUAL)


def groups_of_one(estimate: Estimate) -> Word:
    """One sample of a group may be all that has a score."""
    return _finite(estimate, ONE, LONE)


def constant_groups(estimate: Estimate) -> Word:
    """Equal rewards have no spread to divide by."""
    return _finite(estimate, CONSTANT)


def leaves_inputs_alone(estimate: Estimate) -> Word:
    """The batch's own arrays are passed."""
    rewards, ids = UNEQUAL[0].copy(), UNEQUAL[1].copy()
    estimate(rewards, ids)
    if not (np.array_equal(rewards, UNEQUAL[0]) and np.array_equal(ids, UNEQUAL[1])):
        return failure("it changed the arrays it was given; copy them first")
    return ok()


def order_does_not_matter(estimate: Estimate) -> Word:
    """Groups are told by id: samples may come in any order."""
    rewards, ids = UNEQUAL
    expected = estimate(rewards.copy(), ids.copy())
    for order in _orders(len(rewards)):
        found = estimate(rewards[order].copy(), ids[order].copy())
        if not np.allclose(found, expected[order], atol=TOLERANCE):
            return failure(
                f"the order {_told(order)} of the samples changes advantages by "
                f"{np.abs(found - expected[order]).max():.3g}; go by group_ids, not by position"
            )
    return ok()


def ids_are_names(estimate: Estimate) -> Word:
    """A group's number means nothing."""
    rewards, ids = UNEQUAL
    expected = estimate(rewards.copy(), ids.copy())
    found = estimate(rewards.copy(), 10_000_000_000 - ids)
    if not np.allclose(found, expected, atol=TOLERANCE):
        return failure("other numbers for the same groups change the advantages")
    return ok()


def groups_are_apart(estimate: Estimate) -> Word:
    """What the other groups got does not matter; estimators that whiten a batch differ here on purpose."""
    rewards, ids = UNEQUAL
    expected = estimate(rewards.copy(), ids.copy())
    for group in np.unique(ids):
        mine = ids == group
        if not np.allclose(estimate(rewards[mine], ids[mine]), expected[mine], atol=TOLERANCE):
            return warning("a group's advantages depend on the other groups: meant if it whitens over the batch")
    return ok()


def more_is_better(estimate: Estimate) -> Word:
    """Within a group a larger reward has no smaller advantage."""
    for rewards, ids in (EQUAL, UNEQUAL):
        found = estimate(rewards.copy(), ids.copy())
        for group in np.unique(ids):
            values = found[ids == group][np.argsort(rewards[ids == group], kind="stable")]
            if (np.diff(values) < -TOLERANCE).any():
                return warning("within a group a larger reward got a smaller advantage")
    return ok()


def same_twice(estimate: Estimate) -> Word:
    """A run can be repeated."""
    first, second = (estimate(EQUAL[0].copy(), EQUAL[1].copy()) for _ in range(2))
    return ok() if np.array_equal(first, second) else warning("the same batch got other advantages the second time")


def is_quick(estimate: Estimate) -> Word:
    """The trainer waits for it in every step."""
    chance = np.random.default_rng(0)
    rewards = chance.random(16_384, np.float32)
    ids = np.repeat(np.arange(2_048, dtype=np.int64), 8)
    started = time.perf_counter()
    estimate(rewards, ids)
    seconds = time.perf_counter() - started
    told = f"{seconds * 1e3:.0f} ms for 16,384 samples"
    return warning(f"{told}; the trainer waits for it in every step") if seconds > SLOW_S else ok(told)


def _of_rewards(estimator: Advantage | TokenAdvantage) -> Estimate:
    """An estimator of a whole rollout as one of rewards and groups: all tokens are alike, all values are zero."""
    if not takes_rollout(estimator):
        return cast(Estimate, estimator)

    def estimate(rewards: Rewards, ids: Ids) -> Rewards:
        zeros = np.zeros(TOKENS * len(rewards), np.float32)
        made = cast(TokenAdvantage, estimator)(
            AdvantageInput(
                rewards=rewards,
                group_ids=ids,
                rollout_ids=np.arange(len(rewards)),
                num_tokens=np.full(len(rewards), TOKENS),
                rollout_log_probs=zeros - 1,
                log_probs=zeros - 1,
                ref_log_probs=zeros - 1,
                values=zeros,
            )
        )
        found = made.advantages if isinstance(made, Advantages) else made
        is_per_token = isinstance(found, np.ndarray) and found.shape == zeros.shape
        return found.reshape(-1, TOKENS).mean(axis=1) if is_per_token else found

    return estimate


def _check(name: str, sentence: str, look: Callable[[Estimate], Word]) -> Check[Advantage | TokenAdvantage]:
    return Check(name, sentence, lambda estimator: look(_of_rewards(estimator)))


CHECKS: Final[tuple[Check[Advantage | TokenAdvantage], ...]] = (
    _check("one_each", "it returns a finite advantage of each sample, or of each trained token", one_each),
    _check("unequal_groups", "groups may be of unequal size", unequal_groups),
    _check("groups_of_one", "a group may have one sample", groups_of_one),
    _check("constant", "a group's rewards may all be the same", constant_groups),
    _check("inputs", "it does not change its inputs", leaves_inputs_alone),
    _check("order", "reordered samples get the same advantages, reordered", order_does_not_matter),
    _check("ids", "group ids are names", ids_are_names),
    _check("apart", "a group's advantages are its own affair", groups_are_apart),
    _check("more_is_better", "within a group a larger reward has no smaller advantage", more_is_better),
    _check("same_twice", "the same batch gets the same advantages again", same_twice),
    _check("time", "it does not keep the trainer waiting", is_quick),
)


def _orders(count: int) -> Iterator[NDArray[np.int64]]:
    yield np.arange(count)[::-1].copy()
    chance = np.random.default_rng(0)
    for _ in range(8):
        yield chance.permutation(count)


def _told(values: NDArray[np.float32] | NDArray[np.int64]) -> str:
    return str(np.round(values, 4).tolist())
