"""The correction between the engine's log-probs and the trainer's: which of its flags have an effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from slimrl.config.batch import solve_batch
from slimrl.config.grpo import GrpoConfig
from slimrl.config.rollout import RolloutConfig
from slimrl.errors import ConfigError


def takes_engines_log_probs(grpo: GrpoConfig, rollout: RolloutConfig) -> bool:
    """What --use-rollout-logprobs is, set or not: tokens of older weights need it, unless another flag sees to them."""
    if grpo.use_rollout_logprobs is not None:
        return grpo.use_rollout_logprobs
    return (rollout.train_async or rollout.partial_rollout) and not (grpo.use_tis or grpo.keep_old_actor)


def check_correction(grpo: GrpoConfig, rollout: RolloutConfig) -> Iterator[str]:
    """What of the correction's flags contradicts another or would have no effect."""
    defaults = GrpoConfig()
    for field in fields(grpo):
        if field.name.startswith("tis_") and getattr(grpo, field.name) != field.default and not grpo.use_tis:
            yield f"--{field.name.replace('_', '-')} has no effect without --use-tis"
    if grpo.tis_clip_low > grpo.tis_clip:
        yield f"--tis-clip-low {grpo.tis_clip_low} must not be above --tis-clip {grpo.tis_clip}"
    if grpo.use_tis and grpo.tis_mode == "truncate" and grpo.tis_clip_low != defaults.tis_clip_low:
        yield (
            f"--tis-clip-low {grpo.tis_clip_low} has no effect with --tis-mode truncate, which bounds weights above "
            "alone; leave it out, or set --tis-mode clip or mask"
        )
    if grpo.tis_reject_low > grpo.tis_reject_high:
        yield f"--tis-reject-low {grpo.tis_reject_low} must not be above --tis-reject-high {grpo.tis_reject_high}"
    band = (grpo.tis_reject_low, grpo.tis_reject_high) != (defaults.tis_reject_low, defaults.tis_reject_high)
    if band and grpo.use_tis and grpo.tis_reject_level is None:
        yield "--tis-reject-low and --tis-reject-high have no effect without --tis-reject-level"
    if grpo.use_tis and grpo.use_rollout_logprobs:
        yield (
            "--use-tis has no effect with --use-rollout-logprobs, which takes the engine's log-probs for the trainer's: "
            "every weight would be 1; leave one out"
        )
    if grpo.use_tis and grpo.get_mismatch_metrics:
        yield "--get-mismatch-metrics has no effect with --use-tis, which reports them; leave it out"
    if grpo.opsm_delta != defaults.opsm_delta and not grpo.use_opsm:
        yield f"--opsm-delta {grpo.opsm_delta} has no effect without --use-opsm"
    has_own_old = takes_engines_log_probs(grpo, rollout) or grpo.keep_old_actor
    if grpo.use_opsm and not has_own_old and _has_one_step(rollout):
        yield (
            "--use-opsm has no effect with one optimizer step per rollout: the old log-probs are then the step's own, and "
            "no sample has drifted from them; set --num-steps-per-rollout 2 or more, or --use-rollout-logprobs"
        )
    if grpo.use_unbiased_kl and not (grpo.use_kl_loss and grpo.kl_loss_coef):
        yield "--use-unbiased-kl has no effect without --use-kl-loss and a --kl-loss-coef above 0"


def _has_one_step(rollout: RolloutConfig) -> bool:
    try:
        return rollout.rollout_batch_size is not None and solve_batch(rollout).num_steps_per_rollout == 1
    except ConfigError:  # reported where the batch is checked
        return False
