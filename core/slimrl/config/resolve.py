"""Derived settings: what a configuration leaves open, filled in from what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimrl.config import Config, RolloutConfig
from slimrl.config.batch import solve_batch
from slimrl.config.correction import takes_engines_log_probs
from slimrl.config.settings import build, flatten
from slimrl.errors import ConfigError

MAX_TOKENS_PER_GPU = 8192


def resolve(
    config: Config, origins: Mapping[str, str], *, num_prompts: int | None = None
) -> tuple[Config, dict[str, str]]:
    """The configuration with unset values derived, and its origins with those marked 'derived'.

    What --num-epoch comes to takes the number of prompts to know.
    """
    values = flatten(config)
    derived = {
        name: value
        for name, value in _derived(config, num_prompts).items()
        if values[name] is None and value is not None
    }
    return build({**values, **derived}), {**origins, **dict.fromkeys(derived, "derived")}


def num_rollouts(config: Config, num_prompts: int) -> int | None:
    """Rollouts in all: as given, or as many whole ones as --num-epoch passes over the prompts make."""
    rollout = config.rollout
    if rollout.num_rollout is not None or rollout.num_epoch is None or not rollout.rollout_batch_size:
        return rollout.num_rollout
    return max(1, rollout.num_epoch * num_prompts // rollout.rollout_batch_size)


def _in_flight(rollout: RolloutConfig) -> int | None:
    """Prompts in flight at once: those of a batch, and with --async those of every batch that may be under way."""
    if rollout.rollout_batch_size is None:
        return None
    return rollout.rollout_batch_size * (1 + (rollout.max_staleness or 1) * rollout.train_async)


def _derived(config: Config, num_prompts: int | None) -> dict[str, Any]:
    rollout = config.rollout
    derived: dict[str, Any] = {
        "num_rollout": num_rollouts(config, num_prompts) if num_prompts else None,
        "over_sampling_batch_size": _in_flight(rollout),
        "eps_clip_high": config.grpo.eps_clip,
        "max_staleness": 1 if rollout.train_async else None,
        "use_rollout_logprobs": takes_engines_log_probs(config.grpo, rollout),
    }
    if config.eval.eval_interval is not None:
        derived |= {
            "eval_input_key": rollout.input_key,
            "eval_label_key": rollout.label_key,
            "eval_max_response_len": rollout.rollout_max_response_len,
            "eval_temperature": rollout.rollout_temperature,
            "eval_top_p": rollout.rollout_top_p,
            "eval_top_k": rollout.rollout_top_k,
        }
    if config.perf.use_dynamic_batch_size:
        derived["max_tokens_per_gpu"] = MAX_TOKENS_PER_GPU
    else:
        derived["micro_batch_size"] = rollout.n_samples_per_prompt  # the samples of a prompt share its forward
    if config.ckpt.hf_checkpoint is not None and (config.grpo.use_kl_loss or config.grpo.kl_coef):
        derived["ref_load"] = config.ckpt.hf_checkpoint
    try:
        sizes = solve_batch(rollout)
    except ConfigError:  # check() reports it; what does not hold has no derived side
        return derived
    return derived | {
        "global_batch_size": sizes.global_batch_size,
        "num_steps_per_rollout": sizes.num_steps_per_rollout,
    }
