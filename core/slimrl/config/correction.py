"""The correction between the engine's log-probs and the trainer's: which of its flags have an effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from slimrl.config.grpo import GrpoConfig


def check_correction(grpo: GrpoConfig) -> Iterator[str]:
    """What of the correction's flags contradicts another or would have no effect."""
    defaults = GrpoConfig()
    for field in fields(grpo):
        if field.name.startswith("tis_") and getattr(grpo, field.name) != field.default and not grpo.use_tis:
            yield f"--{field.name.replace('_', '-')} has no effect without --use-tis"
    if grpo.tis_clip_low > grpo.tis_clip:
        yield f"--tis-clip-low {grpo.tis_clip_low} must not be above --tis-clip {grpo.tis_clip}"
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
    if grpo.use_unbiased_kl and not (grpo.use_kl_loss and grpo.kl_loss_coef):
        yield "--use-unbiased-kl has no effect without --use-kl-loss and a --kl-loss-coef above 0"
