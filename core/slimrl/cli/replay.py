"""`slimrl replay`: a run's steps computed again on this machine's CPU, and what differs from what was recorded."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from slimrl.checkpoints import COMPLETE, find_start
from slimrl.cli.command_flags import print_help, read_flags, typed_settings, wants_help
from slimrl.cli.main import EXIT_FAILED
from slimrl.cli.plugin_flags import check_options, load_plugins
from slimrl.config import Config
from slimrl.config.batch import solve_batch
from slimrl.config.distillation import as_distillation
from slimrl.config.flags import parse
from slimrl.config.resolve import resolve
from slimrl.config.sft import as_sft, is_sft
from slimrl.errors import PluginError, UsageError
from slimrl.observe.run_dir import RunDir
from slimrl.observe.stored_rollout import read_advantages, read_rollout, stored_steps
from slimrl.registry import Options, PluginReferences, PluginSet, Registry, RewardTable, resolve_rewards
from slimrl.registry.kinds import Kind, RunHook
from slimrl.registry.rewards import RM_TYPE
from slimrl.scoring import Scorer
from slimrl.scoring.settings import ScoringSettings
from slimrl.traits import advantage_traits_of

if TYPE_CHECKING:
    from slimrl.megatron.trainer import MegatronTrainer
    from slimrl.replay import Check, ReplayedTraining, Tolerance
    from slimrl.types import Group, TrainBatch, TrainReport

USAGE: Final = "slimrl replay RUN [--step K] [FLAGS]"
ABOUT: Final = (
    "Compute the stored steps of a run again on a CPU, without Ray and without an engine: rewards, the filter's "
    "verdicts, advantages, loss and gradient norm. What differs from what the run recorded is shown, and the exit "
    "status is 1 then. Nothing in RUN is changed."
)
COLUMNS: Final = ("step", "what", "compared", "different", "largest difference", "where")
PLUGINS: Final[tuple[Kind, ...]] = ("dynamic_filter", "advantage")
HOOKS: Final[tuple[RunHook, ...]] = (
    *("reward_post_process", "train_data_converter", "data_postprocess"),
    *("custom_advantage", "custom_tis", "custom_loss", "pg_loss_reducer"),
)
"""The functions that make a batch of groups, or advantages of it."""


@dataclass(frozen=True)
class ReplayFlags:
    """The flags of `slimrl replay`."""

    step: int | None = None
    """Only this step. Unset: every stored step of the run."""
    catch_up: bool = False
    """Reach a step that has no checkpoint by training on the stored steps before it, from the nearest weights on."""
    model: bool = True
    """Compute loss and gradient, for which the weights are needed; --no-model leaves that out."""
    num_threads: int | None = None
    """Threads to compute with. Unset: as in the run."""
    rm_timeout: float | None = None
    """Seconds that scoring one sample may take. Unset: as in the run."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Job:
    """A checked command."""

    run: RunDir
    config: Config
    flags: ReplayFlags
    steps: dict[int, Path]
    """All stored ones."""
    plugins: PluginSet
    no_rewards: str
    """Why the rewards cannot be resolved; empty where they can."""
    changed: list[str]
    """Plugins whose source is not what the run had."""

    @cached_property
    def chosen(self) -> list[int]:
        """The steps to replay."""
        return list(self.steps) if self.flags.step is None else [self.flags.step]

    @cached_property
    def recorded(self) -> dict[int, dict[str, float]]:
        """Metrics by step."""
        rows: dict[int, dict[str, float]] = {}
        for row in self.run.read_metrics():
            rows.setdefault(int(row["step"]), {}).update(row)
        return rows

    def batch_at(self, step: int) -> TrainBatch:
        """What a stored step was trained on."""
        from slimrl.replay import batch_of, conversations_of

        if step not in self.steps:
            raise UsageError(f"--catch-up: the samples of step {step} are not in {self.run.rollouts}")
        groups = read_rollout(self.steps[step])
        if is_sft(self.config.rollout):
            return conversations_of(step, groups)
        return batch_of(step, groups, self.plugins)


def main(argv: Sequence[str]) -> int:
    """Replay a run; raises UsageError with everything that is wrong before anything starts."""
    registry, words = load_plugins(argv)
    if wants_help(words):
        print_help(USAGE, ABOUT, ReplayFlags, registry.catalogue.option_types)
        return 0
    if not words or words[0].startswith("-"):
        raise UsageError(f"usage: {USAGE}")
    job = _resolved(RunDir(Path(words[0])), words[1:], registry)
    checks = asyncio.run(_checks(job))
    _print(job, checks)
    return EXIT_FAILED if any(check.different for check in checks) else 0


def _resolved(run: RunDir, words: Sequence[str], registry: Registry) -> Job:
    if not run.config.is_file():
        raise UsageError(f"{run.path} is no run folder: there is no {run.config.name} in it")
    parsed = parse(["--config", str(run.config)], extra=registry.catalogue.option_types)
    flags, plugin_options = read_flags(words, ReplayFlags, parsed.plugin_options)
    config, _ = resolve(*as_distillation(*as_sft(parsed.config, parsed.origins)))
    steps = stored_steps(run.rollouts)
    if not steps:
        raise UsageError(f"{run.path} has no stored samples ({run.rollouts.name}/STEP.parquet)")
    if flags.step is not None and flags.step not in steps:
        raise UsageError(f"--step {flags.step}: the run has the steps {min(steps)} to {max(steps)}")
    if flags.catch_up and not flags.model:
        raise UsageError("--catch-up has no effect with --no-model; leave one out")
    if flags.num_threads is not None and not flags.model:
        raise UsageError("--num-threads has no effect with --no-model; leave one out")
    if flags.num_threads is not None and flags.num_threads < 1:
        raise UsageError(f"--num-threads {flags.num_threads} must be at least 1")
    if flags.rm_timeout is not None and flags.rm_timeout <= 0:
        raise UsageError(f"--rm-timeout {flags.rm_timeout:g} must be above 0")
    if config.grpo.keep_old_actor and flags.model:
        raise UsageError(
            "the run was made with --keep-old-actor: its old log-probs are of weights that no checkpoint has; replay "
            "the rest with --no-model"
        )
    options = Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options])
    options = options.with_defaults(registry.catalogue.option_types)
    rewards, no_rewards = RewardTable(()), ""
    rm_types = _rm_types(steps if flags.step is None else {flags.step: steps[flags.step]})
    references = PluginReferences.from_config(config.rollout, config.grpo, rm_types=rm_types)
    try:
        rewards = resolve_rewards(registry, references.rewards)
    except PluginError as error:
        no_rewards = "; ".join(error.problems)
    named = {kind: reference for kind, reference in references.by_kind().items() if kind in PLUGINS}
    found = {kind: registry.resolve(kind, reference) for kind, reference in named.items()}
    hooks = [(kind, registry.resolve(kind, name)) for kind, name in references.run_hooks if kind in HOOKS]
    plugins = PluginSet(references, options, rewards, found, {}, hooks)
    check_options(registry, [*(c.resolved for c in rewards.components()), *found.values()], typed_settings(words))
    return Job(run, config, flags, steps, plugins, no_rewards, list(_changed(run, registry)))


def _rm_types(steps: Mapping[int, Path]) -> list[str]:
    """The rewards that samples name."""
    metadata = [sample.metadata for path in steps.values() for group in read_rollout(path) for sample in group]
    return sorted({str(one[RM_TYPE]) for one in metadata if isinstance(one, dict) and one.get(RM_TYPE)})


def _changed(run: RunDir, registry: Registry) -> Iterator[str]:
    """What plugins.lock has another hash of."""
    if not run.plugins_lock.is_file():
        return
    for row in json.loads(run.plugins_lock.read_text(encoding="utf-8")):
        name = f"{row['kind']} {row['reference']}"
        try:
            found = registry.resolve(row["kind"], row["reference"])
        except PluginError as error:
            yield f"{name} cannot be loaded any more: {'; '.join(error.problems)}"
            continue
        if found.file_hash != row["sha256"]:
            yield f"{name} has another source than in the run"


async def _checks(job: Job) -> list[Check]:
    from slimrl import replay

    training, problem = _training(job) if job.flags.model else (None, "left out (--no-model)")
    tolerance = _tolerance(job)
    settings = ScoringSettings(
        num_workers=job.config.rollout.rm_workers, timeout_s=job.flags.rm_timeout or job.config.rollout.rm_timeout
    )
    checks: list[Check] = []
    async with Scorer(job.plugins.rewards, job.plugins.options, settings) as scorer:
        for step in job.chosen:
            groups = read_rollout(job.steps[step])
            row = job.recorded.get(step, {})
            if is_sft(job.config.rollout):
                report = problem if training is None else training.report(step, job.batch_at(step))
                checks.append(_training_check(step, row, report, tolerance))
                continue
            checks.append(replay.check_samples(step, groups, row))
            if job.no_rewards:
                checks.append(replay.Check(step, "rewards", left_out=job.no_rewards))
            else:
                checks.append(replay.check_rewards(step, groups, await _scored(groups, scorer)))
            checks.append(replay.check_verdicts(step, groups, job.plugins))
            checks += _check_training(job, step, row, training, problem, tolerance)
    return checks


async def _scored(groups: Sequence[Group], scorer: Scorer) -> list[Group]:
    fresh = [replace(group, samples=[replace(sample, score=None) for sample in group]) for group in groups]
    places = asyncio.Semaphore(64)

    async def score(group: Group) -> None:
        async with places:
            await scorer.score(group)

    await asyncio.gather(*(score(group) for group in fresh))
    return fresh


def _check_training(
    job: Job,
    step: int,
    row: Mapping[str, float],
    training: ReplayedTraining | None,
    problem: str,
    tolerance: Tolerance,
) -> Iterator[Check]:
    """Advantages, loss and gradient."""
    from slimrl import replay

    batch = job.batch_at(step)
    recorded = read_advantages(job.steps[step])
    report = problem if training is None else training.report(step, batch)
    if not isinstance(report, str):
        yield replay.check_advantages(step, recorded, batch, [float(value) for value in report.advantages])
    elif _needs_model(job):
        yield replay.Check(step, "advantages", left_out=f"they need the model: {report}")
    else:
        found = replay.advantages_without_model(batch, job.plugins, job.config.grpo)
        yield replay.check_advantages(step, recorded, batch, found)
    yield _training_check(step, row, report, tolerance)


def _needs_model(job: Job) -> bool:
    """Whether advantages are made of what a model says of the tokens."""
    grpo = job.config.grpo
    return bool(grpo.kl_coef or grpo.use_opd or advantage_traits_of(job.plugins.advantage).needs_values)


def _training_check(step: int, row: Mapping[str, float], report: TrainReport | str, tolerance: Tolerance) -> Check:
    """Loss and gradient as the trainer reports them, or why it does not."""
    from slimrl import replay

    if isinstance(report, str):
        return replay.Check(step, "loss and gradient", left_out=report)
    return replay.check_training(step, row, report, tolerance)


def _training(job: Job) -> tuple[ReplayedTraining | None, str]:
    """The trainer, or why there is none."""
    from slimrl.replay import ReplayedTraining

    folder = job.config.ckpt.hf_checkpoint
    if folder is None or not folder.is_dir():
        return None, f"--hf-checkpoint {folder} of the run is not there; replay where the run was started"
    make, catch_up = _make_trainer(job), job.flags.catch_up
    return ReplayedTraining(make, _starts(job), job.batch_at, catch_up=catch_up), ""


class _NoEngines:
    """A transport to nobody."""

    def publish(self, weights: object, version: int) -> None:
        del weights, version


def _make_trainer(job: Job) -> Any:  # a function without arguments, made where Megatron may be imported
    def make() -> MegatronTrainer:
        from slimrl.megatron.functions import TrainFunctions
        from slimrl.megatron.trainer import MegatronTrainer

        c = job.config
        sizes = solve_batch(c.rollout)
        # what --num-epoch came to is in the event
        num_rollout = c.rollout.num_rollout or _last_start(job).get("num_rollout") or len(job.steps)
        return MegatronTrainer(
            c.ckpt,
            c.model,
            c.rollout.rollout_temperature,
            c.grpo,
            c.optimizer,
            c.perf,
            trained=c.trained,
            num_steps_per_rollout=sizes.num_steps_per_rollout,
            global_batch_size=sizes.global_batch_size,
            total_steps=num_rollout * sizes.num_steps_per_rollout,
            max_response_len=c.rollout.rollout_max_response_len,
            advantage=job.plugins.advantage,
            functions=TrainFunctions.of(job.plugins),
            transport=_NoEngines(),
            device="cpu",
            dtype=_place(job)[1],
            num_threads=job.flags.num_threads or c.cluster.num_threads,
            seed=c.cluster.seed,
            deterministic=c.cluster.deterministic,
        )

    return make


def _place(job: Job) -> tuple[str, Literal["float32", "bfloat16"]]:
    """Where the run trained, and the number format to replay in: a GPU's steps are replayed in float32."""
    last = _last_start(job)
    device = last.get("device") or job.config.cluster.device
    dtype = last.get("dtype") or job.config.cluster.dtype
    return device, "bfloat16" if device != "cuda" and dtype == "bfloat16" else "float32"


def _last_start(job: Job) -> dict[str, Any]:
    started = _events(job.run, "start")
    return started[-1] if started else {}


def _tolerance(job: Job) -> Tolerance:
    from slimrl.replay import OTHER_KIND, SAME_KIND

    device, dtype = _place(job)
    return OTHER_KIND if device == "cuda" or dtype == "bfloat16" else SAME_KIND


def _starts(job: Job) -> dict[int, Path | None]:
    """The weights that are there, by the steps that they have seen; None are those that the run began with."""
    starts: dict[int, Path | None] = {}
    for event in _events(job.run, "start"):
        checkpoint = event.get("checkpoint")
        if checkpoint is None:
            starts[int(event["step"])] = Path(event["weights"]) if event.get("weights") else None
        elif (Path(checkpoint) / COMPLETE).is_file():
            starts[int(event["step"])] = Path(checkpoint)
    saved = [Path(event["folder"]) / f"iter_{event['step']:07d}" for event in _events(job.run, "checkpoint")]
    for folder in [*saved, *job.run.checkpoints.glob("iter_*")]:  # the run may have been moved
        if (folder / COMPLETE).is_file() and json.loads((folder / COMPLETE).read_text()).get("resumable", True):
            start = find_start(folder)
            starts[start.step] = start.checkpoint
    return starts


def _events(run: RunDir, name: str) -> list[dict[str, Any]]:
    return [event for event in run.read_events() if event.get("event") == name]


def _print(job: Job, checks: Sequence[Check]) -> None:
    agrees = not any(check.different for check in checks)
    if job.flags.json:
        rows = [{**asdict(check), "largest": _finite(check.largest)} for check in checks]
        document = {"agrees": agrees, "changed_plugins": job.changed, "checks": rows}
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("what", "where") else "right")
    for check in checks:
        table.add_row(*_cells(check))
    Console(width=None if sys.stdout.isatty() else 100_000).print(table)
    for plugin in job.changed:
        sys.stdout.write(f"changed: {plugin}\n")
    different = sum(bool(check.different) for check in checks)
    compared = sum(bool(check.compared) for check in checks)
    sys.stdout.write(f"{compared - different} of {compared} agree, {len(checks) - compared} not compared\n")


def _cells(check: Check) -> list[str]:
    from rich.markup import escape

    if check.left_out:
        return [str(check.step), check.name, "-", "-", "-", escape(f"not compared: {check.left_out}")]
    largest = "" if math.isinf(check.largest) else f"{check.largest:.2g}"
    different = f"{check.different:,}" if not check.different else f"[red]{check.different:,}[/]"
    return [str(check.step), check.name, f"{check.compared:,}", different, largest, escape(check.where)]


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(value) else value
