"""What `slimrl eval` is asked to do: its command line, read and checked before anything starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from slimrl.checkpoints import find_start
from slimrl.cli.plugin_flags import PLUGIN_FLAGS_HELP, load_plugins, take_plugin_flags
from slimrl.cli.train import attempt, given_options, plugin_problems, read_rows, resolve_plugins, without_reward
from slimrl.config import CkptConfig, ClusterConfig, Config, RolloutConfig
from slimrl.config.check import check_evaluation
from slimrl.config.engines import check_device
from slimrl.config.eval_sets import EvalDataset, eval_datasets
from slimrl.config.flags import Origins, parse
from slimrl.config.folders import cannot_be_made
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.plan import has_cuda_device
from slimrl.config.settings import settings
from slimrl.errors import CheckpointError, ConfigError
from slimrl.observe.run_dir import RunDir
from slimrl.registry import PluginSet
from slimrl.rollout.settings import RolloutSettings

ABOUT: Final = (
    "Evaluate a checkpoint: generate and score the prompts of --eval-prompt-data. The flags are those of training; "
    "what only training reads is refused as a flag and ignored in the file of --config. "
)
SWITCHES: Final = {"json": "Print the metrics as JSON."}
TRAINING_CATEGORIES: Final = frozenset({"grpo", "optimizer", "perf", "model", "trained"})
TRAINING_SETTINGS: Final = frozenset(
    [
        *("prompt_data", "skip_bad_rows", "skip_long_prompts", "rollout_shuffle", "rollout_batch_size"),
        *("n_samples_per_prompt", "global_batch_size", "num_steps_per_rollout", "num_rollout", "num_epoch"),
        *("over_sampling_batch_size", "dynamic_sampling_filter_path", "max_sampling_rounds", "on_insufficient"),
        *("buffer_filter_path", "partial_rollout", "mask_offpolicy_in_partial_rollout", "max_unscored_fraction"),
        *("ref_load", "critic_load", "save", "save_interval", "max_checkpoints_to_keep", "no_save_optim", "save_hf"),
        *("async_save", "ckpt_format", "actor_num_nodes", "actor_num_gpus_per_node"),
        *("eval_interval", "skip_eval_before_train", "log_passrate"),
        *(
            "ray_address",
            "run_dir",
            "tracker",
            "use_tensorboard",
            "train_async",
            "max_staleness",
            "update_weights_interval",
        ),
        "update_weights_pause",
        *("rollout_function_path", "data_source_path", "rollout_sample_filter_path"),
        *("rollout_all_samples_process_path", "rollout_data_postprocess_path", "custom_reward_post_process_path"),
        *("custom_convert_samples_to_train_data_path", "custom_rollout_log_function_path"),
    ]
)
ENGINE_SETTINGS: Final = ("device", "dtype", "num_threads", "seed", "deterministic")
"""What an evaluation reads for the engines that it starts alone."""
MODEL: Final = "model"
"""Where a checkpoint of slimrl holds the Hugging Face checkpoint."""
ADAPTER: Final = "adapter"
"""Where it holds the adapters in its place."""


@dataclass(frozen=True)
class EvalCommandOptions:
    """What `slimrl eval` takes beside the settings of training."""

    output: Path | None = None
    """Folder for metrics.jsonl, the samples (eval/NAME/STEP.parquet) and logs. Default: evals/DATE-TIME."""


@dataclass(frozen=True)
class Job:
    """A checked command."""

    config: Config
    origins: Origins
    plugins: PluginSet
    settings: RolloutSettings
    made_of: Path | None
    """Adapters that are merged into the model's weights, or Megatron's weights in their place."""
    step: int
    """Steps that the weights have seen, as far as the checkpoint says."""
    run: RunDir
    as_json: bool


def prepare(argv: Sequence[str]) -> Job:
    """Parse and check a command line; raises ConfigError with the problems of all checks together."""
    selection, _ = take_plugin_flags(argv)
    registry, words = load_plugins(argv)
    parsed = parse(
        words,
        prog="slimrl eval",
        description=ABOUT + PLUGIN_FLAGS_HELP,
        switches=SWITCHES,
        extra=[*registry.catalogue.option_types, EvalCommandOptions],
    )
    *plugin_options, own = parsed.plugin_options
    assert isinstance(own, EvalCommandOptions)
    problems = [*_training_flags(parsed.origins), *_engine_flags(parsed.config, parsed.origins)]
    step, model, made_of = _find_model(parsed.config, parsed.origins, problems)
    config = _without_training(parsed.config, model)
    problems += [*check_evaluation(config), *check_device(config, device_of(config.cluster))]
    problems += _hooks(config)
    datasets = eval_datasets(config.eval, [])
    problems += _required(config, datasets, has_load=parsed.config.ckpt.load is not None)
    rows = read_rows(config, problems)
    if datasets and all(dataset.reward for dataset in datasets):  # nothing is left for another one to score
        config = replace(
            config, rollout=replace(config.rollout, custom_rm_path=datasets[0].reward, reward=(), rm_type=None)
        )
    plugins = None
    if missing := without_reward(config.rollout, rows):
        problems.append(missing)
    else:
        plugins = attempt(lambda: resolve_plugins(config, rows, plugin_options, selection, registry), problems)
        given = given_options(parsed.origins, in_file=False)
        problems += plugin_problems(plugins, rows, registry, given) if plugins else []
    run = RunDir((own.output or Path("evals") / datetime.now().strftime("%Y%m%d-%H%M%S")).resolve())
    problems += _output(run, datasets, step, f"--output {own.output}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    assert plugins is not None, "a check that failed has named its problem"
    is_loaded = model != parsed.config.ckpt.hf_checkpoint
    origins = {**parsed.origins, "hf_checkpoint": parsed.origins["load" if is_loaded else "hf_checkpoint"]}
    return Job(config, origins, plugins, _settings(config, datasets), made_of, step, run, "json" in parsed.switches)


def _training_flags(origins: Origins) -> Iterator[str]:
    table = settings()
    for name, origin in origins.items():
        if origin == "flag" and (
            name in TRAINING_SETTINGS or (name in table and table[name].category in TRAINING_CATEGORIES)
        ):
            yield f"--{name.replace('_', '-')} has no effect in slimrl eval, which does not train"


def _engine_flags(config: Config, origins: Origins) -> Iterator[str]:
    """What is said of an engine that runs already; the check of all commands has the other flags of engines."""
    for name in ENGINE_SETTINGS:
        if config.sglang.rollout_external_engine_addrs and origins.get(name) == "flag":
            yield f"--{name.replace('_', '-')} has no effect on engines that --rollout-external-engine-addrs names"


def _find_model(config: Config, origins: Origins, problems: list[str]) -> tuple[int, Path | None, Path | None]:
    """The steps that the weights have seen, the model's folder, and what its weights are made of besides.

    The folder is the newest checkpoint of --load, else --hf-checkpoint.
    """
    load, hf_checkpoint, is_told = config.ckpt.load, config.ckpt.hf_checkpoint, origins.get("load") == "flag"
    if load is None or (origins.get("hf_checkpoint") == "flag" and not is_told):
        if origins.get("ckpt_step") == "flag":
            problems.append(
                f"--ckpt-step {config.ckpt.ckpt_step} has no effect without --load, the folder of checkpoints"
            )
        return 0, hf_checkpoint, None
    if config.sglang.rollout_external_engine_addrs and is_told:
        problems.append(
            f"--load {load} has no effect on an engine that --rollout-external-engine-addrs names, which has its "
            "weights; give the folder of its tokenizer with --hf-checkpoint"
        )
    folder = load / "checkpoints" if (load / "checkpoints").is_dir() else load
    try:
        start = find_start(folder, config.ckpt.ckpt_step, resume=False)
        for reason in start.passed_over:
            sys.stderr.write(f"warning: {reason}; evaluating {start.checkpoint}\n")
        named = hf_checkpoint if origins.get("hf_checkpoint") == "flag" else None
        if start.checkpoint is not None and (start.checkpoint / ADAPTER).is_dir():
            adapter = start.checkpoint / ADAPTER
            return start.step, named or _base_of(adapter), adapter
        if start.weights is not None:
            return 0, named or _described(folder), start.weights
    except CheckpointError as error:
        problems.append(str(error))
        return 0, None, None
    if is_told and named is not None:
        problems.append("--load and --hf-checkpoint both name the model to evaluate; leave one out")
    if start.checkpoint is not None:
        return start.step, start.checkpoint / MODEL, None
    if is_told:
        problems.append(f"--load {load} holds no checkpoint of slimrl; a Hugging Face folder is for --hf-checkpoint")
        return 0, None, None
    return 0, hf_checkpoint, None  # as in training: nothing was saved yet


def _base_of(adapter: Path) -> Path:
    """The folder of the model that an adapter was trained on; raises CheckpointError when it is not there."""
    said = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = Path(said["base_model_name_or_path"])
    if not base.is_dir():
        raise CheckpointError(
            f"{adapter} was trained on {base}, which is not there; name the model with --hf-checkpoint"
        )
    return base / MODEL if (base / "trainer.json").is_file() else base


def _described(folder: Path) -> Path:
    """A folder of Megatron's with config and tokenizer; raises CheckpointError where it has none."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"--load {folder} is of Megatron and has no config.json; give the model's folder with --hf-checkpoint too"
        )
    return folder


def _without_training(config: Config, model: Path | None) -> Config:
    """The configuration with everything that only training reads as it is by default."""
    defaults = RolloutConfig()
    changed = {name: getattr(defaults, name) for name in TRAINING_SETTINGS if hasattr(defaults, name)}
    own = replace(config.eval, eval_interval=None, skip_eval_before_train=False, log_passrate=False)
    base = Config()
    return replace(
        config,
        ckpt=CkptConfig(hf_checkpoint=model),
        rollout=replace(config.rollout, **changed),
        eval=own,
        **{name: getattr(base, name) for name in TRAINING_CATEGORIES},
    )


def _required(config: Config, datasets: Sequence[EvalDataset], *, has_load: bool) -> Iterator[str]:
    if config.ckpt.hf_checkpoint is None and not has_load:
        yield "--hf-checkpoint is required: the folder of a model (or --load, a folder of slimrl's checkpoints)"
    general = config.eval.eval_max_response_len or config.rollout.rollout_max_response_len
    if general is None and not all(dataset.max_response_len for dataset in datasets):
        yield "--eval-max-response-len is required: new tokens at most in one response"


def _hooks(config: Config) -> Iterator[str]:
    path = config.eval.eval_function_path
    if path is not None:
        yield (
            f"--eval-function-path {path}: such a function works with a run's prompts, and slimrl eval has none; "
            "--eval-function-path None evaluates the sets without it"
        )


def _output(run: RunDir, datasets: Sequence[EvalDataset], step: int, flag: str) -> Iterator[str]:
    if run.path.exists() and not run.path.is_dir():
        yield f"{flag} is a file; expected a folder"
    elif said := cannot_be_made(run.path):
        yield f"{flag} cannot be made: {said}; name another folder"
    elif run.rollouts.exists():
        yield f"{flag} is the folder of a training run, in which nothing is changed; give another one"
    elif there := [d.name for d in datasets if (run.path / "eval" / d.name / f"{step:06d}.parquet").exists()]:
        yield f"{flag} holds an evaluation of {', '.join(there)} at step {step} already; give another folder"


def _settings(config: Config, datasets: Sequence[EvalDataset]) -> RolloutSettings:
    assert config.ckpt.hf_checkpoint is not None, "checked before"
    hf_checkpoint = config.ckpt.hf_checkpoint.resolve()
    longest = max((dataset.max_response_len or 0 for dataset in datasets), default=0)
    return RolloutSettings(
        rollout=config.rollout,
        eval=config.eval,
        hf_checkpoint=hf_checkpoint,
        vocab_size=open_hf_folder(hf_checkpoint, "--hf-checkpoint").config.get("vocab_size"),
        prompt_data=(),
        batch_size=1,
        max_response_len=config.rollout.rollout_max_response_len or config.eval.eval_max_response_len or longest,
        concurrency=config.sglang.sglang_server_concurrency,
        deterministic=config.cluster.deterministic,
        use_tensorboard=False,
        eval_sets=tuple(datasets),
        health_check_interval_s=config.sglang.rollout_health_check_interval,
        health_check_timeout_s=config.sglang.rollout_health_check_timeout,
    )


def device_of(cluster: ClusterConfig) -> str:
    """Where the engine computes."""
    return cluster.device if cluster.device != "auto" else "cuda" if has_cuda_device() else "cpu"
