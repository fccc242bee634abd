"""Cross-field rules: everything about a configuration that can be wrong before a file's rows are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from slimrl.config import Config, EvalConfig, GrpoConfig, OptimizerConfig, RolloutConfig
from slimrl.config.batch import solve_batch
from slimrl.config.checkpoints import check_checkpoints
from slimrl.config.distillation import check_distillation
from slimrl.config.engines import check_engines
from slimrl.config.eval_sets import check_set, eval_datasets
from slimrl.config.hf_folder import HfFolder, open_hf_folder
from slimrl.config.hooks import check_hooks
from slimrl.config.layout import check_layout
from slimrl.config.lengths import Lengths
from slimrl.config.prompt_files import parse_prompt_file, parse_prompt_files
from slimrl.config.ranges import check_ranges
from slimrl.config.sft import check_sft, is_sft
from slimrl.config.trained import check_trained
from slimrl.errors import CheckpointError, ConfigError

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OWN_TEMPLATE_KWARGS = frozenset(
    ["conversation", "max_length", "padding", "return_dict", "return_tensors", "tokenize", "tools", "truncation"]
)
REMOTE_RM = "remote_rm"
"""The reward that --rm-url is for."""


def check(config: Config) -> list[str]:
    """Every broken rule, one sentence each, none when the configuration can run.

    Reads config.json and looks whether files are there; loads nothing heavy and starts nothing. The rows of
    prompt files, plugin references and the model's shape have owners of their own.
    """
    return [
        *_required(config),
        *check_ranges(config),
        *_batch(config.rollout),
        *_files(config),
        *check_checkpoints(config.ckpt, config.trained),
        *check_trained(config.trained),
        *_rollout(config),
        *_template(config.rollout),
        *_sources(config),
        *_partial(config),
        *_async(config),
        *check_hooks(config),
        *check_sft(config),
        *check_distillation(config),
        *_rm_url(config),
        *_eval(config.eval, config.rollout.rollout_max_response_len),
        *_loss(config),
        *_correction(config.grpo),
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
        *_files(as_trained),
        *_template(rollout),
        *_rollout(as_trained),
        *_rm_url(as_trained),
        *_eval(as_trained.eval, rollout.rollout_max_response_len),
        *check_engines(as_trained),
    ]


def eval_sets(config: EvalConfig) -> list[tuple[str, Path]]:
    """The evaluation sets as (name, path); what is wrong with one, which `check` reports, is left out."""
    return [(dataset.name, dataset.path) for dataset in eval_datasets(config, [])]


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


def _files(config: Config) -> Iterator[str]:
    ckpt = config.ckpt
    if ckpt.hf_checkpoint is not None:
        try:
            model = open_hf_folder(ckpt.hf_checkpoint, "--hf-checkpoint")
        except CheckpointError as error:
            yield str(error)
        else:
            yield from _lengths(config, model)
            if config.rollout.apply_chat_template and not model.has_chat_template:
                yield f"--apply-chat-template: the tokenizer of {ckpt.hf_checkpoint} has no chat template"
            elif config.rollout.apply_chat_template:
                yield from _template_names(config.rollout, model)
    if ckpt.ref_load is not None and not ckpt.ref_load.is_dir():
        yield f"--ref-load {ckpt.ref_load} is not a folder; expected a Hugging Face checkpoint or one of slimrl"
    if ckpt.critic_load is not None and not ckpt.critic_load.is_dir():
        yield f"--critic-load {ckpt.critic_load} is not a folder; expected a Hugging Face checkpoint or one of slimrl"
    for flag, folder in (("--load", ckpt.load), ("--save", ckpt.save), ("--run-dir", config.observe.run_dir)):
        if folder is not None and folder.exists() and not folder.is_dir():
            yield f"{flag} {folder} is a file; expected a folder"
    problems: list[str] = []
    specs = parse_prompt_files(config.rollout.prompt_data, problems)
    yield from problems
    for spec in specs:
        yield from _prompt_file("--prompt-data", spec.path)
    flag = "--eval-prompt-data" if config.eval.eval_config is None else "--eval-config"
    for name, path in eval_sets(config.eval):
        try:
            spec = parse_prompt_file(str(path), f"{flag} {name}", weighted=False)
        except ConfigError as error:
            yield from error.problems
        else:
            yield from _prompt_file(f"{flag} {name}", spec.path)


def _prompt_file(flag: str, path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            with path.open("rb") as file:
                if file.read(4) != b"PAR1":
                    yield f"{flag} {path} is not a parquet file"
            return
        with path.open(encoding="utf-8") as file:
            beginning = file.read(4096)
    except UnicodeDecodeError:
        yield f"{flag} {path} is not text; expected a JSONL file (one JSON object a line, UTF-8)"
    except OSError as error:
        yield f"{flag} {path}: {error.strerror or error}"
    else:
        if not beginning:
            yield f"{flag} {path} is empty; expected one JSON object a line"


def _lengths(config: Config, model: HfFolder) -> Iterator[str]:
    rollout, own = config.rollout, config.eval
    sets = [None, *eval_datasets(own, [])]
    found = [Lengths.of_training(rollout), *(Lengths.of_evaluation(own, rollout, dataset) for dataset in sets)]
    for lengths in dict.fromkeys(found):
        yield from lengths.check(model.max_positions)


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


def _async(config: Config) -> Iterator[str]:
    rollout, defaults = config.rollout, RolloutConfig()
    interval, staleness = rollout.update_weights_interval, rollout.max_staleness
    if config.grpo.keep_old_actor and config.grpo.use_rollout_logprobs:
        yield "--keep-old-actor has no effect with --use-rollout-logprobs, which takes the engine's; leave one out"
    if not rollout.train_async:
        if config.grpo.keep_old_actor:
            yield "--keep-old-actor needs --async, which bounds how many generations of weights are kept"
        if staleness is not None:
            yield f"--max-staleness {staleness} has no effect without --async: every batch is of the newest weights"
        if interval != defaults.update_weights_interval:
            yield f"--update-weights-interval {interval} has no effect without --async"
        if rollout.update_weights_pause != defaults.update_weights_pause:
            yield "--update-weights-pause has no effect without --async: nothing is in flight when weights are sent"
        return
    if interval > (staleness or 1) >= 1:
        yield (
            f"--update-weights-interval {interval} is more than --max-staleness {staleness or 1} allows: the engine's "
            "weights would be too old to generate with; raise --max-staleness"
        )
    if rollout.partial_rollout:
        yield "--partial-rollout has no effect with --async, which never cuts off what is in flight; leave one out"
    if config.cluster.deterministic:
        yield "--async cannot be repeated to the last digit: what is ready when is timing; leave out --deterministic"
    if rollout.buffer_filter_path != defaults.buffer_filter_path:
        yield (
            f"--buffer-filter-path {rollout.buffer_filter_path} has no effect with --async: a batch takes the groups of "
            "the oldest weights first, which bounds their age"
        )


def _template(rollout: RolloutConfig) -> Iterator[str]:
    said, flag = rollout.apply_chat_template_kwargs, "--apply-chat-template-kwargs"
    if said is None:
        return
    if not rollout.apply_chat_template:
        yield f"{flag} has no effect without --apply-chat-template"
    try:
        values: object = json.loads(said)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        yield f"{flag} takes a JSON object, e.g. '{{\"enable_thinking\": false}}'; got {said!r}"
    elif own := sorted(OWN_TEMPLATE_KWARGS & values.keys()):
        yield f"{flag}: {', '.join(own)} cannot be set, slimrl needs it as it is"


def _template_names(rollout: RolloutConfig, model: HfFolder) -> Iterator[str]:
    try:
        values: object = json.loads(rollout.apply_chat_template_kwargs or "{}")
    except ValueError:
        return  # reported with the flag
    for name in values if isinstance(values, dict) else ():
        if name not in {"continue_final_message", *OWN_TEMPLATE_KWARGS} and name not in (model.chat_template or ""):
            yield f"--apply-chat-template-kwargs: the chat template of {model.path} does not know {name!r}"


def _sources(config: Config) -> Iterator[str]:
    """A reward of an evaluation set is found by the set's name, and training prompts are named after their file."""
    own = {dataset.name for dataset in eval_datasets(config.eval, []) if dataset.reward or dataset.reward_key}
    for spec in parse_prompt_files(config.rollout.prompt_data, []):
        if spec.name in own:
            yield (
                f"--prompt-data {spec.path}: the evaluation set {spec.name!r} with a reward of its own has the file's "
                "name; give the set another one"
            )


def _rm_url(config: Config) -> Iterator[str]:
    rollout = config.rollout
    if rollout.rm_url is None:
        return
    named = [rollout.custom_rm_path or "", *rollout.reward, rollout.rm_type or ""]
    if any(REMOTE_RM in name or ":" in name or "." in name.partition("=")[0] for name in named):
        return  # a function of the user's may read it too
    words = [*rollout.prompt_data, *(str(path) for _, path in eval_sets(config.eval))]
    files = [config.eval.eval_config, *(spec.path for spec in parse_prompt_files(words, []))]
    if not any(path and _mentions(path, REMOTE_RM) for path in files):
        yield f"--rm-url has no effect without {REMOTE_RM}: give --rm-type {REMOTE_RM}, or rows whose metadata say it"


def _mentions(path: Path, word: str) -> bool:
    """Whether a file has the word somewhere: a row's metadata may name a reward."""
    try:
        with path.open("rb") as file:
            return any(word.encode() in line for line in file)
    except OSError:
        return False  # reported with the files


def _eval(config: EvalConfig, max_response_len: int | None) -> Iterator[str]:
    if config.eval_interval is None:
        training = {"log_passrate", "eval_pass_threshold"} if config.log_passrate else ()
        for field in fields(config):
            if getattr(config, field.name) != field.default and field.name not in training:
                yield f"--{field.name.replace('_', '-')} has no effect without --eval-interval"
    elif not config.eval_prompt_data and config.eval_config is None and config.eval_function_path is None:
        yield "--eval-interval needs --eval-prompt-data: pairs of a name and a path (or --eval-config FILE)"
    words = config.eval_prompt_data
    if words and config.eval_config is not None:
        yield "--eval-prompt-data and --eval-config both name the evaluation sets; leave one out"
    if len(words) % 2:
        yield f"--eval-prompt-data takes pairs of a name and a path; got {len(words)} words: {' '.join(words)}"
    problems: list[str] = []
    datasets = eval_datasets(config, problems)
    names = [dataset.name for dataset in datasets]
    yield from problems
    for dataset in datasets:
        yield from check_set(dataset, config, max_response_len)
    flag = "--eval-prompt-data" if config.eval_config is None else f"--eval-config {config.eval_config}"
    for name in sorted(set(names)):
        if names.count(name) > 1:
            yield f"{flag} names two sets {name!r}"
        if not SET_NAME.fullmatch(name):
            yield f"{flag}: {name!r} cannot name a set; use letters, digits, '.', '_' and '-'"


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


def _correction(grpo: GrpoConfig) -> Iterator[str]:
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
