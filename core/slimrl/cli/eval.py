"""`slimrl eval`: evaluate a checkpoint by itself, without a trainer and without Ray."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slimrl.cli.eval_job import Job, device_of, prepare
from slimrl.config import ClusterConfig
from slimrl.config.engines import num_embedded_engines, threads_per_engine
from slimrl.config.megatron_folder import tensors_folder
from slimrl.config.plan import num_cores
from slimrl.config.toml import to_toml
from slimrl.engines.process import EngineSettings
from slimrl.engines.processes import EngineProcesses
from slimrl.observe.run_dir import write_atomically

if TYPE_CHECKING:
    from slimrl.rollout.evaluate import EvalSet


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
        with (
            _model(job) as folder,
            EngineProcesses(_engine(job, folder), num_embedded_engines(job.config), job.run.logs) as engines,
        ):
            metrics = asyncio.run(_run(job, sets, engines.start()))
    _print(job, metrics)
    return 0


@contextmanager
def _model(job: Job) -> Iterator[Path]:
    """The folder that the engines load; where the weights are in another form it is made, and removed at the end."""
    found = job.settings.hf_checkpoint
    if job.made_of is None and tensors_folder(found) is None:
        yield found
        return
    import torch

    from slimrl.megatron.hf_export import write_as_hf

    with tempfile.TemporaryDirectory(prefix=".model-", dir=job.run.path) as made:
        write_as_hf(found, Path(made), made_of=job.made_of, dtype=getattr(torch, _dtype(job.config.cluster)))
        yield Path(made)


def _dtype(cluster: ClusterConfig) -> Literal["float32", "bfloat16"]:
    if cluster.dtype != "auto":
        return cluster.dtype
    return "float32" if device_of(cluster) == "cpu" else "bfloat16"


def _engine(job: Job, model: Path) -> EngineSettings:
    """As in training: the same device, number format and seeds give the same responses."""
    cluster = job.config.cluster
    device = device_of(cluster)
    return EngineSettings(
        model_path=model,
        device=device,
        dtype=_dtype(cluster),
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
    """The metrics, which are in the output folder then, unless a function of the user's has logged them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from slimrl.engines.health import HealthSettings
    from slimrl.engines.pool import EnginePool
    from slimrl.rollout.evaluate import evaluate
    from slimrl.rollout.hooks import RolloutHooks
    from slimrl.rollout.loop import Produce
    from slimrl.rollout.produce import produce
    from slimrl.scoring import Scorer
    from slimrl.types import Group

    rollout, own, hooks = job.config.rollout, job.settings, RolloutHooks(job.plugins, job.run.event)
    hooks.step = job.step
    results: dict[str, list[Group]] = {}
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
        engine.published(job.step, {})
        with Progress(*columns, console=console, disable=not is_shown) as progress:
            task = progress.add_task("evaluate", total=sum(len(one.rows) for one in sets))

            def produce_with(eval_set: EvalSet) -> Produce:
                make = partial(
                    produce,
                    generate=hooks.around(job.plugins.generate_for(eval_set.name), evaluation=True),
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

            metrics = await evaluate(
                sets,
                produce_with,
                job.run,
                job.step,
                stop_on_unscored=rollout.on_unscored == "stop",
                results=results,
            )
    if not hooks.logs_evaluation(results, metrics):
        job.run.log_metrics(job.step, metrics)
    return metrics


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
