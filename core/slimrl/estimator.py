"""Advantage estimators of both shapes as one: a function of the whole rollout to advantages a token."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from slimrl.errors import TrainError
from slimrl.protocols import Advantage, TokenAdvantage
from slimrl.types import AdvantageInput, Advantages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Estimate = Callable[[AdvantageInput], Advantages]
"""Advantages with one entry a trained token."""


def takes_rollout(estimator: Advantage | TokenAdvantage) -> bool:
    """Whether an estimator takes the whole rollout as its one argument, not rewards and group ids."""
    parameters = inspect.signature(estimator).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in positional if p.default is p.empty]) == 1


def estimate_of(estimator: Advantage | TokenAdvantage, name: str) -> Estimate:
    """The estimator in its one form; it raises TrainError for a result that is no advantage of each sample or token."""
    of_rollout = takes_rollout(estimator)

    def estimate(rollout: AdvantageInput) -> Advantages:
        made = (
            cast(TokenAdvantage, estimator)(rollout)
            if of_rollout
            else cast(Advantage, estimator)(rollout.rewards, rollout.group_ids)
        )
        found = made if isinstance(made, Advantages) else Advantages(made)
        return Advantages(_per_token(found.advantages, rollout, name), found.returns)

    return estimate


def _per_token(values: NDArray[np.float32], rollout: AdvantageInput, name: str) -> NDArray[np.float32]:
    import numpy as np

    array = np.asarray(values, dtype=np.float32)
    num_samples, num_tokens = len(rollout.rewards), len(rollout.rollout_log_probs)
    if array.shape == (num_samples,):
        array = np.repeat(array, rollout.num_tokens)
    if array.shape != (num_tokens,):
        raise TrainError(
            f"advantage estimator {name!r} returned shape {array.shape} for {num_samples} samples of {num_tokens} "
            "trained tokens; it must return one number a sample or one a trained token"
        )
    return array
