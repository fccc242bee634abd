"""The batch equation: rollout_batch_size x n_samples_per_prompt = global_batch_size x num_steps_per_rollout."""

from __future__ import annotations

from dataclasses import dataclass

from slimrl.config.rollout import RolloutConfig
from slimrl.errors import ConfigError


@dataclass(frozen=True)
class BatchSizes:
    """Four numbers for which the batch equation holds."""

    rollout_batch_size: int
    """Groups per rollout."""
    n_samples_per_prompt: int
    """Samples per group."""
    global_batch_size: int
    """Samples per optimizer step."""
    num_steps_per_rollout: int

    @property
    def samples_per_rollout(self) -> int:
        """Either side of the equation."""
        return self.rollout_batch_size * self.n_samples_per_prompt


def solve_batch(rollout: RolloutConfig) -> BatchSizes:
    """Derive the missing side of the batch equation; raises ConfigError with all four numbers when it cannot hold.

    Without --global-batch-size and --num-steps-per-rollout there is one optimizer step per rollout.
    """
    groups, size = rollout.rollout_batch_size, rollout.n_samples_per_prompt
    if groups is None:
        raise ConfigError("--rollout-batch-size is required: prompts (groups) per rollout")
    samples, batch, steps = groups * size, rollout.global_batch_size, rollout.num_steps_per_rollout
    if min(groups, size, 1 if batch is None else batch, 1 if steps is None else steps) < 1:
        raise ConfigError("the batch sizes must be at least 1: " + _numbers(groups, size, batch, steps))
    if batch is None:
        steps = steps or 1
        batch, rest = divmod(samples, steps)
    elif steps is None:
        steps, rest = divmod(samples, batch)
    else:
        rest = samples - batch * steps
    if rest or not batch or not steps:
        raise ConfigError(
            "the batch equation does not hold: "
            + _numbers(groups, size, rollout.global_batch_size, rollout.num_steps_per_rollout)
            + "; "
            + _way_out(samples, rollout.global_batch_size, rollout.num_steps_per_rollout)
        )
    return BatchSizes(groups, size, batch, steps)


def _numbers(groups: int, size: int, batch: int | None, steps: int | None) -> str:
    left = f"--rollout-batch-size {groups} x --n-samples-per-prompt {size} = {groups * size}"
    right = f"--global-batch-size {batch or '(derived)'} x --num-steps-per-rollout {steps or '(derived)'}"
    return f"{left}, {right}" + (f" = {batch * steps}" if batch and steps else "")


def _way_out(samples: int, batch: int | None, steps: int | None) -> str:
    if batch and steps:
        if samples % steps == 0:
            return f"set --global-batch-size {samples // steps}, or leave it out and it is derived"
        if samples % batch == 0:
            return f"set --num-steps-per-rollout {samples // batch}, or leave it out and it is derived"
        return "leave both out for one optimizer step per rollout"
    given, flag = (batch, "--global-batch-size") if batch else (steps, "--num-steps-per-rollout")
    fitting = [n for n in range(1, samples + 1) if samples % n == 0]
    nearest = sorted(sorted(fitting, key=lambda n: abs(n - (given or 1)))[:3])
    return f"{samples} samples divide by {flag} {', '.join(map(str, nearest))}"
