"""Rules of the functions that a run may name: what they make pointless, and what they cannot be used with."""

from __future__ import annotations

from collections.abc import Iterator

from slimrl.config import Config, GrpoConfig, RolloutConfig
from slimrl.config.sft import is_sft

POLICY_LOSS = (
    *("eps_clip", "eps_clip_high", "eps_clip_c", "use_opsm", "use_tis", "get_mismatch_metrics", "entropy_coef"),
    *("kl_loss_coef", "use_unbiased_kl", "custom_tis_function_path", "custom_pg_loss_reducer_function_path"),
)
"""Settings of the policy loss that another loss knows nothing of."""


def makes_advantages(rollout: RolloutConfig) -> bool:
    """Whether a function of the user's says how good a sample was, in place of the estimator."""
    return bool(rollout.custom_reward_post_process_path or rollout.custom_convert_samples_to_train_data_path)


def check_hooks(config: Config) -> Iterator[str]:
    """Every broken rule, one sentence each."""
    yield from _rollout_function(config.rollout)
    yield from _data_source(config.rollout)
    yield from _reward_post_process(config)
    yield from _loss_functions(config)


def _loss_functions(config: Config) -> Iterator[str]:
    grpo, defaults = config.grpo, GrpoConfig()
    loss, advantage, tis = (
        grpo.custom_loss_function_path,
        grpo.custom_advantage_function_path,
        grpo.custom_tis_function_path,
    )
    if grpo.loss_type == "custom_loss" and loss is None:
        yield "--loss-type custom_loss needs --custom-loss-function-path: pkg.mod:attr or file.py:attr"
    if grpo.loss_type == "policy_loss" and loss is not None:
        yield f"--custom-loss-function-path {loss} has no effect without --loss-type custom_loss"
    if grpo.loss_type == "custom_loss":
        unread = POLICY_LOSS if grpo.kl_coef or not grpo.use_kl_loss else (*POLICY_LOSS, "kl_loss_type")
        for name in unread:
            if getattr(grpo, name) != getattr(defaults, name):
                yield f"--{name.replace('_', '-')} has no effect with --loss-type custom_loss, whose function is the loss"
    if tis is not None and not grpo.use_tis:
        yield f"--custom-tis-function-path {tis} has no effect without --use-tis"
    elif tis is not None:
        for name in vars(defaults):
            if name.startswith("tis_") and getattr(grpo, name) != getattr(defaults, name):
                yield f"--{name.replace('_', '-')} has no effect with --custom-tis-function-path {tis}"
    other = config.rollout.custom_reward_post_process_path
    if advantage is not None and other is not None:
        yield (
            f"--custom-advantage-function-path {advantage} has no effect with --custom-reward-post-process-path "
            f"{other}, whose numbers are the advantages; leave one out"
        )


def _reward_post_process(config: Config) -> Iterator[str]:
    function, defaults = config.rollout.custom_reward_post_process_path, GrpoConfig()
    if function is None:
        return
    for name in ("disable_grpo_std_normalization", "disable_rewards_normalization", "kl_coef", "gamma", "lambd"):
        if getattr(config.grpo, name) != getattr(defaults, name):
            yield (
                f"--{name.replace('_', '-')} has no effect with --custom-reward-post-process-path {function}, whose "
                "numbers are the advantages"
            )


def _rollout_function(rollout: RolloutConfig) -> Iterator[str]:
    if rollout.rollout_function_path is None or is_sft(rollout):
        return
    function, defaults = f"--rollout-function-path {rollout.rollout_function_path}", RolloutConfig()
    if rollout.train_async:
        yield (
            f"--async cannot be used with {function}: a function fills a batch when it is asked for one, and nothing "
            "goes on behind it; leave one out"
        )
    for name in ("partial_rollout", "mask_offpolicy_in_partial_rollout", "on_insufficient", "max_sampling_rounds"):
        if getattr(rollout, name) != getattr(defaults, name):
            yield f"--{name.replace('_', '-')} has no effect with {function}, which fills the batch itself"


def _data_source(rollout: RolloutConfig) -> Iterator[str]:
    if rollout.data_source_path is None:
        return
    source = f"--data-source-path {rollout.data_source_path}"
    if rollout.num_epoch is not None:
        yield f"--num-epoch {rollout.num_epoch} cannot be counted with {source}; set --num-rollout"
    for name in ("skip_bad_rows", "skip_long_prompts"):
        if getattr(rollout, name):
            yield f"--{name.replace('_', '-')} has no effect with {source}: slimrl reads no rows for training"
