"""Cross-field rules: everything about a configuration that can be wrong before a file's rows are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace

from slimrl.config import Config, OptimizerConfig, RolloutConfig
from slimrl.config.async_training import check_async
from slimrl.config.batch import solve_batch
from slimrl.config.chat_template import check_chat_template
from slimrl.config.checkpoints import check_checkpoints
from slimrl.config.correction import check_correction
from slimrl.config.distillation import check_distillation
from slimrl.config.engines import check_engines
from slimrl.config.eval_rules import check_eval, check_names
from slimrl.config.eval_sets import eval_sets
from slimrl.config.files import check_files
from slimrl.config.hooks import check_hooks
from slimrl.config.layout import check_layout
from slimrl.config.ranges import check_ranges
from slimrl.config.rm_url import check_rm_url
from slimrl.config.sft import check_sft, is_sft
from slimrl.config.trained import check_trained
from slimrl.errors import ConfigError


def check(config: Config) -> list[str]:
    """Every broken rule, one sentence each, none when the configuration can run.

    Reads config.json and looks whether files are there; loads nothing heavy and starts nothing. The rows of
    prompt files, plugin references and the model's shape have owners of their own.
    """
    return [
        *_required(config),
        *check_ranges(config),
        *_batch(config.rollout),
        *check_files(config),
        *check_checkpoints(config.ckpt, config.trained),
        *check_trained(config.trained),
        *_rollout(config),
        *check_chat_template(config.rollout),
        *check_names(config),
        *_partial(config),
        *check_async(config),
        *check_hooks(config),
        *check_sft(config),
        *check_distillation(config),
        *check_rm_url(config),
        *check_eval(config.eval, config.rollout.rollout_max_response_len),
        *_loss(config),
        *check_correction(config.grpo, config.rollout),
        *_optimizer(config.optimizer),
        *_perf(config),
        *check_layout(config.cluster, config.perf, config.optimizer),
        *check_engines(config),
    ]


def check_evaluation(config: Config) -> list[str]:
    """Every broken rule of a configuration that is only evaluated with; those of training alone do not count."""
    required = [] if config.eval.eval_config else eval_sets(config.eval)
    if not required and config.eval.eval_config is None:
        return ["--eval-prompt-data is required: pairs of a name and a path (or --eval-config FILE)"]
    rollout = replace(config.rollout, n_samples_per_prompt=2, num_epoch=None, rollout_batch_size=None)
    as_trained = replace(config, rollout=rollout, eval=replace(config.eval, eval_interval=1))
    return [
        *check_ranges(as_trained),
        *check_files(as_trained),
        *check_chat_template(rollout),
        *_rollout(as_trained),
        *check_rm_url(as_trained),
        *check_eval(as_trained.eval, rollout.rollout_max_response_len),
        *check_engines(as_trained),
    ]


def _required(config: Config) -> Iterator[str]:
    rollout = config.rollout
    if config.ckpt.hf_checkpoint is None:
        yield "--hf-checkpoint is required: the folder of a model (`slimrl model fetch smollm2-135m` makes one)"
    if not rollout.prompt_data and rollout.data_source_path is None:
        yield "--prompt-data is required: a JSONL or parquet file of prompts"
    if rollout.rollout_batch_size is None:
        yield "--rollout-batch-size is required: prompts (groups) per rollout"
    if rollout.rollout_max_response_len is None and not is_sft(rollout):
        yield "--rollout-max-response-len is required: new tokens at most in one response"
    if rollout.num_rollout is None and rollout.num_epoch is None:
        yield "--num-rollout or --num-epoch is required: the length of training"


def _batch(rollout: RolloutConfig) -> Iterable[str]:
    groups, size = rollout.rollout_batch_size, rollout.n_samples_per_prompt
    batch, steps = rollout.global_batch_size, rollout.num_steps_per_rollout
    if groups is None or min(groups, size, batch or 1, steps or 1) < 1 or 0 in (batch, steps):
        return ()  # reported with what is missing and out of range
    try:
        solve_batch(rollout)
    except ConfigError as error:
        return error.problems
    return ()


def _rollout(config: Config) -> Iterator[str]:
    rollout = config.rollout
    groups, in_flight = rollout.rollout_batch_size, rollout.over_sampling_batch_size
    if groups is not None and in_flight is not None and in_flight < groups:
        yield f"--over-sampling-batch-size {in_flight} must be at least --rollout-batch-size {groups}"
    if rollout.num_rollout is not None and rollout.num_epoch is not None:
        yield (
            f"--num-rollout {rollout.num_rollout} and --num-epoch {rollout.num_epoch} both set the length of "
            "training; leave one out"
        )
    named = [rollout.custom_rm_path, *rollout.reward] if rollout.custom_rm_path else [*rollout.reward, rollout.rm_type]
    if rollout.group_rm and not any(name and (":" in name or "." in name) for name in named):
        yield "--group-rm has no effect on rewards that a plugin offers: they say themselves whether they take groups"
    if "" in rollout.rollout_stop:
        yield "--rollout-stop has an empty string, which would end every response before its first token"
    if negative := [token for token in rollout.rollout_stop_token_ids if token < 0]:
        yield f"--rollout-stop-token-ids must be 0 or more; got {negative[0]}"


def _partial(config: Config) -> Iterator[str]:
    rollout = config.rollout
    groups, in_flight = rollout.rollout_batch_size, rollout.over_sampling_batch_size
    if rollout.partial_rollout and groups is not None and (in_flight or groups) <= groups:
        yield (
            f"--partial-rollout has no effect without --over-sampling-batch-size above --rollout-batch-size {groups}: "
            "no group is cut off"
        )
    if rollout.partial_rollout and config.cluster.deterministic:
        yield "--partial-rollout has no effect with --deterministic, which waits for every group; leave one out"
    if rollout.mask_offpolicy_in_partial_rollout and not rollout.partial_rollout:
        yield "--mask-offpolicy-in-partial-rollout has no effect without --partial-rollout"
    if rollout.on_insufficient == "fallback" and rollout.dynamic_sampling_filter_path is None:
        yield "--on-insufficient fallback has no effect without --dynamic-sampling-filter-path: nothing is dropped"


def _loss(config: Config) -> Iterator[str]:
    grpo = config.grpo
    if not grpo.use_kl_loss:
        if grpo.kl_loss_coef > 0:
            yield f"--kl-loss-coef {grpo.kl_loss_coef} has no effect without --use-kl-loss"
        if grpo.kl_loss_type != type(grpo).kl_loss_type and not grpo.kl_coef:
            yield f"--kl-loss-type {grpo.kl_loss_type} has no effect without --use-kl-loss"
    elif grpo.kl_coef and grpo.kl_loss_coef:
        yield (
            f"--kl-coef {grpo.kl_coef} and --kl-loss-coef {grpo.kl_loss_coef} both hold the policy near the reference: "
            "one in the rewards, one in the loss; leave one out"
        )


def _optimizer(config: OptimizerConfig) -> Iterator[str]:
    other = "sgd" if config.optimizer == "adam" else "adam"
    for field in fields(config):
        if field.name.startswith(f"{other}_") and getattr(config, field.name) != field.default:
            yield f"--{field.name.replace('_', '-')} has no effect with --optimizer {config.optimizer}"
    if config.min_lr > 0 and config.lr_decay_style == "constant":
        yield f"--min-lr {config.min_lr} has no effect with --lr-decay-style constant"
    elif config.min_lr > config.lr:
        yield f"--min-lr {config.min_lr} must not be above --lr {config.lr}"


def _perf(config: Config) -> Iterator[str]:
    perf = config.perf
    if perf.max_tokens_per_gpu is not None and not perf.use_dynamic_batch_size:
        yield f"--max-tokens-per-gpu {perf.max_tokens_per_gpu} has no effect without --use-dynamic-batch-size"
    if perf.micro_batch_size is not None and perf.use_dynamic_batch_size:
        yield f"--micro-batch-size {perf.micro_batch_size} has no effect with --use-dynamic-batch-size; leave one out"
