"""GRPO_ARGS: advantages and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class GrpoConfig:
    """Advantage estimation and the policy loss."""

    loss_type: Literal["policy_loss", "sft_loss", "custom_loss"] = "policy_loss"
    """The policy's loss, or that of supervised fine-tuning on the conversations of --prompt-data (no engine, no reward), or --custom-loss-function-path."""
    custom_loss_function_path: str | None = None
    """Function that makes the loss of every token, with --loss-type custom_loss: pkg.mod:attr or file.py:attr."""
    custom_advantage_function_path: str | None = None
    """Function that makes the advantages, in place of the estimator."""
    custom_tis_function_path: str | None = None
    """Function that makes the importance weights of --use-tis."""
    custom_pg_loss_reducer_function_path: str | None = None
    """Function that makes one number of the policy losses of a micro-batch's tokens, in place of the mean; of slime's shape."""
    advantage_estimator: str = "grpo"
    """Advantage estimator: a name an installed plugin offers."""
    disable_grpo_std_normalization: bool = False
    """Only centre the rewards of a group; do not divide by their standard deviation (grpo, gspo, cispo)."""
    disable_rewards_normalization: bool = False
    """Take rewards as they are; do not compare them with the group's mean (grpo, gspo, cispo, reinforce_plus_plus_baseline)."""
    disable_compute_advantages_and_returns: bool = False
    """Ask no estimator: every advantage is 0, for a loss function of yours that reads none or a data postprocess that sets them."""
    kl_coef: float = 0.0
    """Weight of the KL divergence from the reference model (--kl-loss-type) in the rewards, for estimators that heed it."""
    gamma: float = 1.0
    """Discount of later rewards, for estimators that heed it."""
    lambd: float = 1.0
    """Lambda of generalised advantage estimation, for estimators that heed it."""
    value_clip: float = 0.2
    """How far the critic's value of a token may move from what it was before the rollout's first step, in its loss."""
    num_critic_only_steps: int = 0
    """Rollouts at the beginning that only the critic is trained on."""
    use_opd: bool = False
    """On-policy distillation: a token's advantage is lowered by --opd-kl-coef times (log-prob of the policy - of a teacher). Needs no reward."""
    opd_type: Literal["sglang", "megatron"] | None = None
    """Where the teacher is: behind an engine (--opd-teacher-url), or in the trainer, as other weights for the policy's model (--opd-teacher-load)."""
    opd_kl_coef: float = 1.0
    """Weight of distillation in the advantages."""
    opd_teacher_url: str | None = None
    """Address of the teacher's engine, SGLang or `slimrl serve`, with the policy's vocabulary: http://HOST:PORT."""
    opd_teacher_load: Path | None = None
    """The teacher's weights: HF folder, or a folder of checkpoints of slimrl; a model of the policy's shape."""
    opd_teacher_ckpt_step: int | None = None
    """Step of the checkpoint in --opd-teacher-load to take. Unset: the one written last whose checksums fit."""
    normalize_advantages: bool = False
    """Whiten the advantages over all trained tokens of a rollout: mean 0, standard deviation 1."""
    eps_clip: float = 0.2
    """Clip range of the probability ratio below 1."""
    eps_clip_high: float | None = None
    """Clip range of the probability ratio above 1. Default: --eps-clip."""
    eps_clip_c: float | None = None
    """Dual clip: the loss of a token with a negative advantage is at most this many times the advantage; above 1."""
    use_opsm: bool = False
    """Leave samples with a negative advantage out of the policy loss that the policy has already moved away from (OPSM)."""
    opsm_delta: float = 1e-4
    """How far that is: the mean of old minus current log-prob over a sample's tokens."""
    use_tis: bool = False
    """Multiply the policy loss with the importance weight of trainer over engine (truncated importance sampling)."""
    tis_clip: float = 2.0
    """Upper bound of the weight."""
    tis_clip_low: float = 0.0
    """Lower bound of the weight."""
    tis_level: Literal["token", "sequence", "geometric"] = "token"
    """Whose ratio the weight is: the token's, its sample's product, or the geometric mean of its sample's tokens."""
    tis_mode: Literal["clip", "truncate", "mask"] = "clip"
    """A weight out of its bounds is moved to the bound, to the upper one only, or is zero (with level token: IcePop)."""
    tis_reject_level: Literal["token", "sequence", "geometric"] | None = None
    """Leave tokens out of the loss whose ratio at this level is out of --tis-reject-low to --tis-reject-high (masked importance sampling)."""
    tis_reject_low: float = 0.0
    """Smallest ratio that is not rejected."""
    tis_reject_high: float = 2.0
    """Largest ratio that is not rejected."""
    tis_veto: float = 0.0
    """Leave samples out of the loss that have a token with a ratio below this; 0: none."""
    get_mismatch_metrics: bool = False
    """Report how trainer and engine differ (train/correction_...) without a correction."""
    use_rollout_logprobs: bool | None = None
    """Take the engine's log-probs for the old policy's, as the importance ratio needs for tokens of older weights. Default: on with --async and with --partial-rollout; else the trainer's own."""
    keep_old_actor: bool = False
    """With --async: take for the old log-probs of a token those of the trainer with the weights that generated it, of which the CPU's memory keeps one copy more than --max-staleness."""
    use_kl_loss: bool = False
    """Measure the KL divergence from the reference model; it joins the loss with --kl-loss-coef above 0."""
    kl_loss_coef: float = 0.0
    """Weight of the KL divergence in the loss; 0 only monitors it."""
    kl_loss_type: Literal["k1", "k2", "k3", "low_var_kl"] = "k1"
    """Estimator of the KL divergence (Schulman 2020); low_var_kl is k3 clamped to [-10, 10]."""
    use_unbiased_kl: bool = False
    """Multiply the KL estimate in the loss with the importance ratio, so that it is right for tokens of older weights too."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the loss."""
    calculate_per_token_loss: bool = False
    """Average the loss over all tokens instead of over rollouts."""
