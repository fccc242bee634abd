"""What an advantage estimator makes of the configuration: settings that it does not heed, and groups too small for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from slimrl.config import Config, GrpoConfig
from slimrl.config.hooks import makes_advantages
from slimrl.config.settings import flatten
from slimrl.traits import AdvantageTraits

SETTINGS = ("kl_coef", "gamma", "lambd", "disable_grpo_std_normalization", "disable_rewards_normalization")
"""What only some estimators heed."""
CRITIC_SETTINGS = ("critic_load", "critic_lr", "critic_lr_warmup_iters", "num_critic_only_steps", "value_clip")
"""What only a critic heeds."""


def check_estimator(config: Config, traits: AdvantageTraits, slimes: Collection[str] = ()) -> Iterator[str]:
    """Every broken rule between the configuration and the traits of its estimator, one sentence each.

    `slimes` are the kinds of the run's functions that are of slime's shape.
    """
    grpo, name = config.grpo, config.grpo.advantage_estimator
    makes = makes_advantages(config.rollout) or grpo.custom_advantage_function_path is not None
    makes = makes or grpo.use_opd or grpo.disable_compute_advantages_and_returns
    is_alone = config.rollout.n_samples_per_prompt == 1 and not makes
    if is_alone and traits.compares_group:
        yield (
            f"--n-samples-per-prompt 1 with --advantage-estimator {name} trains nothing: a reward is compared with its "
            "group's mean, and a group of one is its own mean; set --n-samples-per-prompt 2 or more"
        )
    post_process = config.rollout.custom_reward_post_process_path
    changes_loss = traits.policy_loss != AdvantageTraits().policy_loss or traits.divides_by_max_length
    function = grpo.custom_advantage_function_path
    is_default = name == GrpoConfig().advantage_estimator
    if function is not None and not (is_default or changes_loss or traits.needs_values):
        yield (
            f"--advantage-estimator {name} has no effect with --custom-advantage-function-path {function}, which makes "
            "the advantages"
        )
    if post_process is not None and not is_default and not changes_loss:
        yield (
            f"--advantage-estimator {name} has no effect with --custom-reward-post-process-path {post_process}, whose "
            "numbers are the advantages"
        )
    if function is not None:
        yield from _advantage_function(config, traits, function, is_slime="custom_advantage" in slimes)
    convert = config.rollout.custom_convert_samples_to_train_data_path
    if convert is not None and "train_data_converter" in slimes:
        makers = {
            "--custom-advantage-function-path": function,
            "--custom-reward-post-process-path": post_process,
            "--advantage-estimator": None if is_default or changes_loss or traits.needs_values else name,
        }
        flags = [f"{flag} {value}" for flag, value in makers.items() if value is not None]
        for flag in flags + [f"--{setting.replace('_', '-')}" for setting in _heeded(grpo, traits)]:
            yield (
                f"{flag} has no effect with --custom-convert-samples-to-train-data-path {convert}, whose rewards are the "
                "advantages"
            )
    for setting in SETTINGS:
        value = getattr(grpo, setting)
        if value != getattr(GrpoConfig(), setting) and setting not in traits.heeds:
            heeded = ", ".join(f"--{other.replace('_', '-')}" for other in SETTINGS if other in traits.heeds)
            shown = "" if value is True else f" {value}"
            yield (
                f"--{setting.replace('_', '-')}{shown} has no effect with --advantage-estimator {name}, which heeds "
                f"{heeded or 'no setting of this kind'}; leave it out or choose another estimator"
            )
    if grpo.disable_rewards_normalization and grpo.disable_grpo_std_normalization:
        yield (
            "--disable-grpo-std-normalization has no effect with --disable-rewards-normalization: rewards that are not "
            "compared are not divided either; leave one out"
        )
    if grpo.disable_compute_advantages_and_returns:
        yield from _no_advantages(config, traits, changes_loss)
    if traits.policy_loss == "cispo" and grpo.eps_clip_c is not None:
        yield f"--eps-clip-c {grpo.eps_clip_c} has no effect with --advantage-estimator {name}, whose loss has no dual clip"
    if traits.divides_by_max_length and grpo.calculate_per_token_loss:
        yield (
            f"--calculate-per-token-loss has no effect with --advantage-estimator {name}, which divides every rollout's "
            "loss by --rollout-max-response-len"
        )
    reducer = grpo.custom_pg_loss_reducer_function_path
    if traits.divides_by_max_length and reducer is not None:
        yield (
            f"--advantage-estimator {name} divides every rollout's loss by --rollout-max-response-len, and "
            f"--custom-pg-loss-reducer-function-path {reducer} divides it by what it likes; for that choose grpo with "
            "--disable-grpo-std-normalization"
        )
    yield from _critic(config, traits)
    if traits.needs_normalization and not grpo.normalize_advantages:
        yield f"--advantage-estimator {name} needs --normalize-advantages"


def _heeded(grpo: GrpoConfig, traits: AdvantageTraits) -> list[str]:
    """The estimator's settings that are given and that it reads."""
    defaults = GrpoConfig()
    return [name for name in SETTINGS if name in traits.heeds and getattr(grpo, name) != getattr(defaults, name)]


def _advantage_function(config: Config, traits: AdvantageTraits, function: str, *, is_slime: bool) -> Iterator[str]:
    """slime's is shown rewards that were compared with their group, one of ours the rewards as they are."""
    flag = f"--custom-advantage-function-path {function}"
    is_alone = config.rollout.n_samples_per_prompt == 1 and not config.grpo.use_opd
    if is_slime and is_alone and traits.compares_group:
        yield (
            f"--n-samples-per-prompt 1 with {flag} trains nothing: the rewards that it is given are compared with their "
            "group's mean, and a group of one is its own mean; set --n-samples-per-prompt 2 or more, or "
            "--disable-rewards-normalization"
        )
    for setting in () if is_slime else _heeded(config.grpo, traits):
        if setting != "kl_coef":  # it gives the function log-probs of policy and reference
            yield f"--{setting.replace('_', '-')} has no effect with {flag}, which sees rewards as they are"


def _no_advantages(config: Config, traits: AdvantageTraits, changes_loss: bool) -> Iterator[str]:
    """Settings of advantages that are not made."""
    flag = "--disable-compute-advantages-and-returns"
    grpo, rollout, defaults = config.grpo, config.rollout, GrpoConfig()
    if grpo.loss_type == "policy_loss" and rollout.rollout_data_postprocess_path is None:
        yield (
            f"{flag} trains nothing with --loss-type policy_loss: every advantage is 0; name what makes them "
            "(--custom-advantage-function-path, without the flag), or sets them (--rollout-data-postprocess-path)"
        )
    is_named = grpo.advantage_estimator != defaults.advantage_estimator
    if traits.needs_values or (is_named and not (changes_loss and grpo.loss_type == "policy_loss")):
        yield f"--advantage-estimator {grpo.advantage_estimator} has no effect with {flag}"
    makers = {
        "custom_advantage_function_path": grpo,
        "custom_reward_post_process_path": rollout,
        "use_opd": grpo,
        "normalize_advantages": grpo,
        "disable_grpo_std_normalization": grpo,
        "disable_rewards_normalization": grpo,
    }
    for name, group in makers.items():
        if value := getattr(group, name):
            shown = "" if value is True else f" {value}"
            yield f"--{name.replace('_', '-')}{shown} cannot be used with {flag}, which leaves advantages at 0; leave one out"


def _critic(config: Config, traits: AdvantageTraits) -> Iterator[str]:
    name, rollout = config.grpo.advantage_estimator, config.rollout
    if not traits.needs_values:
        values, defaults = flatten(config), flatten(Config())
        for setting in CRITIC_SETTINGS:
            if values[setting] != defaults[setting]:
                yield (
                    f"--{setting.replace('_', '-')} {values[setting]} has no effect with --advantage-estimator {name}, "
                    "which needs no critic; leave it out or choose ppo"
                )
        return
    convert = rollout.custom_convert_samples_to_train_data_path
    if convert is not None:
        yield (
            f"--advantage-estimator {name} has no effect with --custom-convert-samples-to-train-data-path {convert}, whose "
            "rewards are the advantages; a critic would have nothing to learn"
        )
    lr, min_lr = config.optimizer.critic_lr, config.optimizer.min_lr
    if lr is not None and min_lr > lr:
        yield f"--min-lr {min_lr} must not be above --critic-lr {lr}"
