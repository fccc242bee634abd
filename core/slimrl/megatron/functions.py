"""Functions of the user's in the trainer: advantages, importance weights and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimrl.config.grpo import GrpoConfig
from slimrl.estimator import Estimate, estimate_of
from slimrl.protocols import Advantage, TokenAdvantage
from slimrl.registry.plugin_set import PluginSet
from slimrl.registry.run_hook import RunHookFunction
from slimrl.types import AdvantageInput, LossTokens

if TYPE_CHECKING:  # they import Megatron, which has to be prepared first
    from slimrl.megatron.logprob import TokenLogProbs
    from slimrl.megatron.micro_batch import MicroBatch

OWN = "own/"
"""Before the names of sums that are metrics of a function of the user's."""


@dataclass(frozen=True)
class TrainFunctions:
    """Those that a run names; None for what slimrl does itself."""

    advantage: RunHookFunction | None = None
    tis: RunHookFunction | None = None
    loss: RunHookFunction | None = None
    postprocess: RunHookFunction | None = None
    reducer: RunHookFunction | None = None

    @classmethod
    def of(cls, plugins: PluginSet) -> Self:
        """The ones that a run resolved."""
        return cls(
            plugins.hook("custom_advantage"),
            plugins.hook("custom_tis"),
            plugins.hook("custom_loss"),
            plugins.hook("data_postprocess"),
            plugins.hook("pg_loss_reducer"),
        )

    def estimate(self, estimator: Advantage | TokenAdvantage, grpo: GrpoConfig) -> Estimate:
        """The estimator that is set, a function of the user's of our shape in its place, or nobody."""
        function, name = self.advantage, grpo.advantage_estimator
        if grpo.disable_compute_advantages_and_returns:
            return estimate_of(no_advantages, "none")
        if function is None or function.is_slime:
            return estimate_of(estimator, name)
        return estimate_of(lambda rollout: function(rollout), function.name)


def no_advantages(rollout: AdvantageInput, /) -> NDArray[np.float32]:
    """None, for a loss that reads none."""
    return np.zeros(len(rollout.rewards), np.float32)


@dataclass(frozen=True)
class CustomLoss:
    """A loss of the user's, one value a token; slimrl makes the step's mean of it, however the step is cut up."""

    function: RunHookFunction
    takes_engines: bool = False
    """Whether the engine's log-probs stand for the old policy's, and say nothing of the trainer's own."""

    def __call__(self, current: TokenLogProbs, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's part of the step's loss, and sums to make metrics of."""
        tokens, weights = batch.tokens, batch.tokens.weights
        detached = current.log_probs.detach()
        old = detached if tokens.old_log_probs is None else tokens.old_log_probs
        returned = self.function(
            LossTokens(
                log_probs=current.log_probs,
                entropy=current.entropy,
                old_log_probs=old,
                rollout_log_probs=tokens.engine_log_probs,
                ref_log_probs=tokens.ref_log_probs,
                advantages=tokens.advantages,
                lengths=batch.pack.lengths,
            )
        )
        values, metrics = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, {})
        values = per_token(self.function, "a loss", values, len(batch))
        loss = torch.dot(weights, values)
        own = detached if self.takes_engines else old
        mismatch = (own - tokens.engine_log_probs).abs()
        sums = {
            "loss": loss.detach(),
            "policy": loss.detach(),
            "entropy": torch.dot(weights, current.entropy.detach()),
            "ppo_kl": torch.dot(weights, old - detached),
            "weight": weights.sum(),
            "mismatch": mismatch.sum(),
            "mismatch_max": mismatch.max(),
            "tokens": torch.tensor(float(len(batch))),
        }
        return loss, sums | own_sums(self.function, metrics, weights)


def custom_weights(
    function: RunHookFunction, policy_loss: Tensor, log_probs: Tensor, batch: MicroBatch
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The policy loss weighted by a function of the user's, which tokens stay in the loss, and sums of its metrics.

    slime's function sees the trained tokens alone: its masks are ones, and its lengths are theirs.
    """
    engine, count = batch.tokens.engine_log_probs, len(batch)
    if not function.is_slime:
        found = per_token(function, "importance weights", function(log_probs, engine, batch.pack.lengths), count)
        return policy_loss * found.detach(), torch.ones_like(found), {}
    lengths = batch.pack.lengths.tolist()
    returned = function(
        function.args,
        pg_loss=policy_loss,
        train_log_probs=list(log_probs.split_with_sizes(lengths)),
        rollout_log_probs=list(engine.split_with_sizes(lengths)),
        loss_masks=list(torch.ones_like(engine).split_with_sizes(lengths)),
        total_lengths=lengths,
        response_lengths=lengths,
    )
    if not isinstance(returned, tuple) or len(returned) != 3:
        raise function.broke("returned something else than three: the policy loss, masks and metrics")
    value = per_token(function, "a policy loss", returned[0], count)
    kept = per_token(function, "masks", _joined(returned[1]), count)
    metrics = {name: _joined(numbers) for name, numbers in dict(returned[2]).items()}
    return value, (kept > 0).to(value.dtype), own_sums(function, metrics, batch.tokens.weights)


def reduced(function: RunHookFunction, values: Tensor, is_kept: Tensor, lengths: Tensor, is_per_token: bool) -> Tensor:
    """One number of the policy losses of a micro-batch's tokens, by a function of the user's.

    It sees the trained tokens alone: both lengths are theirs, and its masks are 1 but for tokens that a correction
    rejects.
    """
    counts = lengths.tolist()
    reducer = function(counts, counts, list(is_kept.split_with_sizes(counts)), is_per_token)
    if not callable(reducer):
        raise function.broke(f"returned {type(reducer).__name__}; it returns a function of the tokens' losses")
    value = function.guarded(reducer, values)
    if not isinstance(value, Tensor) or value.shape != ():
        gave = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise function.broke(f"reduced the losses of {len(values)} tokens to {gave}; it makes a tensor of one number")
    if not torch.isfinite(value.detach()):
        raise function.broke(f"reduced the losses of {len(values)} tokens to {value.item()}, which is not finite")
    return value


def per_token(function: RunHookFunction, what: str, values: Any, count: int) -> Tensor:  # Any: a user's
    """What a function returned, checked to be a tensor of one finite number a token."""
    if not isinstance(values, Tensor) or values.shape != (count,):
        gave = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise function.broke(f"returned {what} of {gave} for {count} tokens; it returns a tensor of one number each")
    if not torch.isfinite(values.detach()).all():
        raise function.broke(f"returned {what} that is not finite")
    return values


def own_sums(function: RunHookFunction, metrics: Mapping[str, Any], weights: Tensor) -> dict[str, Tensor]:
    """Sums of metrics that a function gave, each a tensor of one number a token."""
    checked = {
        name: per_token(function, f"the metric {name!r}", values, len(weights)) for name, values in metrics.items()
    }
    return {OWN + name: torch.dot(weights, values.detach().to(weights.dtype)) for name, values in checked.items()}


def _joined(parts: Any) -> Any:  # Any: a user's list or tensor
    return torch.cat([part.flatten() for part in parts]) if isinstance(parts, list | tuple) else parts
