"""`slimrl replay`: a run's steps computed again on this machine's CPU, and what differs from what was recorded."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slimrl.cli.command_flags import print_help, wants_help
from slimrl.cli.main import EXIT_FAILED
from slimrl.cli.plugin_flags import load_plugins
from slimrl.cli.replay_job import Job, ReplayFlags, resolve_job
from slimrl.cli.replay_trainer import tolerance_of, training_of
from slimrl.config.sft import is_sft
from slimrl.errors import UsageError
from slimrl.observe.run_dir import RunDir
from slimrl.observe.stored_rollout import read_advantages, read_rollout
from slimrl.scoring import Scorer
from slimrl.scoring.settings import ScoringSettings
from slimrl.traits import advantage_traits_of

if TYPE_CHECKING:
    from slimrl.replay import Check, ReplayedTraining, Tolerance
    from slimrl.types import Group, TrainReport

USAGE: Final = "slimrl replay RUN [--step K] [FLAGS]"
ABOUT: Final = (
    "Compute the stored steps of a run again on a CPU, without Ray and without an engine: rewards, the filter's "
    "verdicts, advantages, loss and gradient norm. What differs from what the run recorded is shown, and the exit "
    "status is 1 then. Nothing in RUN is changed."
)
COLUMNS: Final = ("step", "what", "compared", "different", "largest difference", "where")


def main(argv: Sequence[str]) -> int:
    """Replay a run; raises UsageError with everything that is wrong before anything starts."""
    registry, words = load_plugins(argv)
    if wants_help(words):
        print_help(USAGE, ABOUT, ReplayFlags, registry.catalogue.option_types)
        return 0
    if not words or words[0].startswith("-"):
        raise UsageError(f"usage: {USAGE}")
    job = resolve_job(RunDir(Path(words[0])), words[1:], registry)
    checks = asyncio.run(_checks(job))
    _print(job, checks)
    return EXIT_FAILED if any(check.different for check in checks) else 0


async def _checks(job: Job) -> list[Check]:
    from slimrl import replay

    training, problem = training_of(job) if job.flags.model else (None, "left out (--no-model)")
    tolerance = tolerance_of(job)
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
