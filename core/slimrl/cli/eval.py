"""`slimrl eval`: evaluate a checkpoint by itself, without a trainer and without Ray."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from slimrl.checkpoints import find_start
from slimrl.cli.plugin_flags import PLUGIN_FLAGS_HELP, load_plugins, take_plugin_flags
from slimrl.cli.train import attempt, given_options, plugin_problems, read_rows, resolve_plugins, without_reward
from slimrl.config import CkptConfig, ClusterConfig, Config, RolloutConfig
from slimrl.config.check import check_evaluation
from slimrl.config.engines import check_device, num_embedded_engines, threads_per_engine
from slimrl.config.eval_sets import EvalDataset, eval_datasets
from slimrl.config.flags import Origins, parse
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.plan import has_cuda_device, num_cores
from slimrl.config.settings import settings
from slimrl.config.toml import to_toml
from slimrl.engines.process import EngineSettings
from slimrl.engines.processes import EngineProcesses
from slimrl.errors import CheckpointError, ConfigError
from slimrl.observe.run_dir import RunDir, write_atomically
from slimrl.registry import PluginSet
from slimrl.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from slimrl.rollout.evaluate import EvalSet

ABOUT: Final = (
    "Evaluate a checkpoint: generate and score the prompts of --eval-prompt-data. The flags are those of training; "
    "what only training reads is refused as a flag and ignored in the file of --config. "
)
SWITCHES: Final = {"json": "Print the metrics as JSON."}
TRAINING_CATEGORIES: Final = frozenset({"grpo", "optimizer", "perf", "model"})
TRAINING_SETTINGS: Final = frozenset(
    [
        *("prompt_data", "skip_bad_rows", "skip_long_prompts", "rollout_shuffle", "rollout_batch_size"),
        *("n_samples_per_prompt", "global_batch_size", "num_steps_per_rollout", "num_rollout", "num_epoch"),
        *("over_sampling_batch_size", "dynamic_sampling_filter_path", "max_sampling_rounds", "on_insufficient"),
        *("buffer_filter_path", "partial_rollout", "mask_offpolicy_in_partial_rollout", "max_unscored_fraction"),
        *("ref_load", "save", "save_interval", "eval_interval", "skip_eval_before_train", "log_passrate"),
        *("ray_address", "run_dir", "use_tensorboard"),
    ]
)
MODEL: Final = "model"
"""Where a checkpoint of slimrl holds the Hugging Face checkpoint."""


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
    step: int
    """Steps that the weights have seen, as far as the checkpoint says."""
    run: RunDir
    as_json: bool


def main(argv: Sequence[str]) -> int:
    """Evaluate; raises UsageError with everything that is wrong before anything starts."""
    job = prepare(argv)
    sets = _read(job)
    for folder in (job.run.path, job.run.logs):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(job.run.config, to_toml(job.config, job.origins, job.plugins.options.of_plugins()))
    write_atomically(job.run.plugins_lock, json.dumps(job.plugins.lock(), indent=1) + "\n")
    addresses = job.config.sglang.rollout_external_engine_addrs
    if addresses:
        metrics = asyncio.run(_run(job, sets, [f"http://{address}" for address in addresses]))
    else:
        with EngineProcesses(_engine(job), num_embedded_engines(job.config), job.run.logs) as engines:
            metrics = asyncio.run(_run(job, sets, engines.start()))
    job.run.log_metrics(job.step, metrics)
    _print(job, metrics)
    return 0


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
    problems = [*_training_flags(parsed.origins)]
    step, model = _find_model(parsed.config, parsed.origins, problems)
    config = _without_training(parsed.config, model)
    problems += [*check_evaluation(config), *check_device(config, _device(config.cluster))]
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
    return Job(config, origins, plugins, _settings(config, datasets), step, run, "json" in parsed.switches)


def _training_flags(origins: Origins) -> Iterator[str]:
    table = settings()
    for name, origin in origins.items():
        if origin == "flag" and (
            name in TRAINING_SETTINGS or (name in table and table[name].category in TRAINING_CATEGORIES)
        ):
            yield f"--{name.replace('_', '-')} has no effect in slimrl eval, which does not train"


def _find_model(config: Config, origins: Origins, problems: list[str]) -> tuple[int, Path | None]:
    """The steps that the weights have seen and their folder: the newest checkpoint of --load, else --hf-checkpoint."""
    load, hf_checkpoint, is_told = config.ckpt.load, config.ckpt.hf_checkpoint, origins.get("load") == "flag"
    if load is None or (origins.get("hf_checkpoint") == "flag" and not is_told):
        return 0, hf_checkpoint
    if is_told and origins.get("hf_checkpoint") == "flag":
        problems.append("--load and --hf-checkpoint both name the model to evaluate; leave one out")
    if config.sglang.rollout_external_engine_addrs and is_told:
        problems.append(
            f"--load {load} has no effect on an engine that --rollout-external-engine-addrs names, which has its "
            "weights; give the folder of its tokenizer with --hf-checkpoint"
        )
    folder = load / "checkpoints" if (load / "checkpoints").is_dir() else load
    try:
        start = find_start(folder)
    except CheckpointError as error:
        problems.append(str(error))
        return 0, None
    if start.checkpoint is not None:
        return start.step, start.checkpoint / MODEL
    if is_told:
        problems.append(f"--load {load} holds no checkpoint of slimrl; a Hugging Face folder is for --hf-checkpoint")
        return 0, None
    return 0, hf_checkpoint  # as in training: nothing was saved yet


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


def _output(run: RunDir, datasets: Sequence[EvalDataset], step: int, flag: str) -> Iterator[str]:
    if run.path.exists() and not run.path.is_dir():
        yield f"{flag} is a file; expected a folder"
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


def _device(cluster: ClusterConfig) -> str:
    return cluster.device if cluster.device != "auto" else "cuda" if has_cuda_device() else "cpu"


def _engine(job: Job) -> EngineSettings:
    """As in training: the same device, number format and seeds give the same responses."""
    cluster = job.config.cluster
    device = _device(cluster)
    return EngineSettings(
        model_path=job.settings.hf_checkpoint,
        device=device,
        dtype=cluster.dtype if cluster.dtype != "auto" else "float32" if device == "cpu" else "bfloat16",
        num_threads=threads_per_engine(cluster.num_threads or num_cores(), num_embedded_engines(job.config)),
        max_running_requests=job.config.sglang.sglang_max_running_requests,
        deterministic=cluster.deterministic,
        random_seed=cluster.seed,
        weight_version=job.step,
    )


def _read(job: Job) -> list[EvalSet]:
    from slimrl.data.encoder import PromptEncoder
    from slimrl.rollout.evaluate import read_eval_sets

    encoder = PromptEncoder.of_training(job.config.rollout, job.settings.hf_checkpoint)
    return read_eval_sets(job.settings, encoder)


async def _run(job: Job, sets: Sequence[EvalSet], engine_urls: Sequence[str]) -> dict[str, float]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from slimrl.engines.health import HealthSettings
    from slimrl.engines.pool import EnginePool
    from slimrl.rollout.evaluate import evaluate
    from slimrl.rollout.loop import Produce
    from slimrl.rollout.produce import produce
    from slimrl.scoring import Scorer
    from slimrl.types import Group

    rollout, own = job.config.rollout, job.settings
    console = Console(stderr=True)
    is_shown = job.config.observe.progress and console.is_terminal
    columns = (TextColumn("evaluate"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with (
        EnginePool(
            engine_urls,
            concurrency=own.concurrency,
            vocab_size=own.vocab_size,
            on_event=job.run.event,
            health=HealthSettings(own.health_check_interval_s, own.health_check_timeout_s),
        ) as engine,
        Scorer(job.plugins.rewards, job.plugins.options, own.scoring()) as scorer,
    ):
        with Progress(*columns, console=console, disable=not is_shown) as progress:
            task = progress.add_task("evaluate", total=sum(len(one.rows) for one in sets))

            def produce_with(eval_set: EvalSet) -> Produce:
                make = partial(
                    produce,
                    generate=job.plugins.generate_for(eval_set.name),
                    engine=engine,
                    score=scorer.score,
                    sampling=eval_set.sampling,
                    retries=rollout.generate_retries,
                )

                async def counted(group: Group) -> Group:
                    finished = await make(group)
                    progress.advance(task)
                    return finished

                return counted

            return await evaluate(sets, produce_with, job.run, job.step, stop_on_unscored=rollout.on_unscored == "stop")


def _print(job: Job, metrics: Mapping[str, float]) -> None:
    if job.as_json:
        document: dict[str, Any] = {"step": job.step, "output": str(job.run.path), "metrics": dict(metrics)}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for dataset in job.settings.eval_sets:
        title = Text(f"{dataset.name}  {dataset.path}")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        mean = metrics.get(f"eval/{dataset.name}")
        table.add_row("mean", "none was scored" if mean is None else f"{mean:.4f}")
        prefix = f"eval/{dataset.name}-"
        for name, value in metrics.items():
            if name.startswith(prefix) and is_told(name.removeprefix(prefix), value):
                table.add_row(Text(name.removeprefix(prefix)), f"{value:.4f}")
        Console(width=None if sys.stdout.isatty() else 100_000).print(table)
    sys.stdout.write(f"samples and logs: {job.run.path}\n")


def is_told(name: str, value: float) -> bool:
    """Whether a figure is in the table: counts of what did not happen are not."""
    return value != 0 or not name.startswith(("unscored_", "failed_")) or name == "unscored_ratio"
