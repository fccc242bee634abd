"""Supervised fine-tuning: what --loss-type sft_loss makes of a configuration, and the settings it has no use for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Final

from slimrl.config import Config, RolloutConfig

SFT: Final = "sft"
"""The rollout function that takes conversations as they are."""
SLIME_SFT: Final = "slime.rollout.sft_rollout.generate_rollout"
"""slime's name of it."""
HEEDED: Final = {
    "rollout": frozenset(
        (
            *("prompt_data", "skip_bad_rows", "skip_long_prompts", "input_key", "metadata_key", "tool_key"),
            *("apply_chat_template", "apply_chat_template_kwargs", "rollout_shuffle", "rollout_seed"),
            *("rollout_batch_size", "global_batch_size", "num_steps_per_rollout", "num_rollout", "num_epoch"),
            *("rollout_max_prompt_len", "rollout_max_context_len", "rollout_function_path"),
        )
    ),
    # the third, as slime's users write it, says what is so: a conversation has no advantage
    "grpo": frozenset(("loss_type", "calculate_per_token_loss", "disable_compute_advantages_and_returns")),
    "eval": frozenset[str](),
    "sglang": frozenset[str](),
}
"""By category: the settings that count for supervised fine-tuning; of other categories all do."""


def is_sft(rollout: RolloutConfig) -> bool:
    """Whether the rows of --prompt-data are whole conversations, trained on as they are."""
    return rollout.rollout_function_path == SFT


def as_sft(config: Config, origins: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
    """The configuration with what --loss-type sft_loss implies filled in, and its origins; any other as it is."""
    rollout, found = config.rollout, dict(origins)
    if rollout.rollout_function_path == SLIME_SFT:
        rollout = replace(rollout, rollout_function_path=SFT)
    if config.grpo.loss_type == "sft_loss":
        implied = {"apply_chat_template": True, "rollout_function_path": rollout.rollout_function_path or SFT}
        for name, value in implied.items():
            if getattr(rollout, name) != value:
                found[name] = "derived"
        rollout = replace(rollout, **implied)  # type: ignore[arg-type]  # each value has its setting's type
    return replace(config, rollout=rollout), found


def check_sft(config: Config) -> Iterator[str]:
    """Every broken rule between supervised fine-tuning and the other settings, one sentence each."""
    function = config.rollout.rollout_function_path
    if config.grpo.loss_type != "sft_loss":
        if function == SFT:
            yield f"--rollout-function-path {SFT} needs --loss-type sft_loss: a row has no reward to train a policy by"
        return
    if function != SFT:
        yield (
            f"--rollout-function-path {function} cannot be used with --loss-type sft_loss, which takes the rows of "
            "--prompt-data as they are; leave it out"
        )
    if config.rollout.n_samples_per_prompt != 1:
        yield (
            f"--n-samples-per-prompt {config.rollout.n_samples_per_prompt} with --loss-type sft_loss would train on "
            "every row so many times over; set it to 1"
        )
    if config.eval.eval_interval is not None:
        yield (
            "--eval-interval needs an engine, and --loss-type sft_loss starts none; evaluate the checkpoint afterwards "
            "with `slimrl eval --load`"
        )
    for category, heeded in HEEDED.items():
        group = getattr(config, category)
        for field in fields(group):
            is_told = field.name in {*heeded, "n_samples_per_prompt"} or category == "eval"
            if not is_told and getattr(group, field.name) != field.default:
                yield f"--{field.name.replace('_', '-')} has no effect with --loss-type sft_loss"
    optimizer = config.optimizer
    critic = {"load": config.ckpt.critic_load, "lr": optimizer.critic_lr}
    for name, value in {**critic, "lr-warmup-iters": optimizer.critic_lr_warmup_iters}.items():
        if value is not None:
            yield f"--critic-{name} {value} has no effect with --loss-type sft_loss, which needs no critic"
    if config.cluster.rollout_num_gpus is not None:
        yield "--rollout-num-gpus has no effect with --loss-type sft_loss, which starts no engine"
