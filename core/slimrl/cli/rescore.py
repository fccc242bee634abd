"""`slimrl rescore`: a finished run's samples under another reward, and what that would have changed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from slimrl.cli.command_flags import print_help, read_flags, typed_settings, wants_help
from slimrl.cli.plugin_flags import check_options, load_plugins
from slimrl.cli.reward_flags import check_rm_url, check_scoring
from slimrl.config import Config
from slimrl.config.flags import parse
from slimrl.errors import UsageError
from slimrl.estimator import Estimate, estimate_of
from slimrl.observe.run_dir import RunDir
from slimrl.observe.stored_rollout import read_rollout, stored_steps
from slimrl.protocols import DynamicFilter
from slimrl.registry import Options, Registry, RewardReferences, RewardTable, resolve_rewards
from slimrl.scoring import Scorer
from slimrl.scoring.settings import ScoringSettings
from slimrl.target import absolute

if TYPE_CHECKING:
    from slimrl.rollout.rescoring import Change, Rescored

USAGE: Final = "slimrl rescore RUN --reward REFERENCE [FLAGS]"
ABOUT: Final = (
    "Score the stored samples of a run with another reward and show what changes: in rewards, in the groups that the "
    "run's dynamic filter keeps, and in the advantages of the run's estimator. Nothing in RUN is changed."
)

COLUMNS: Final = (
    *("step", "samples", "mean old", "mean new", "changed", "unscored", "kept groups", "in and out", "sign changes"),
    "correlation",
)


@dataclass(frozen=True)
class RescoreFlags:
    """The flags of `slimrl rescore`."""

    reward: tuple[str, ...] = ()
    """The other reward, by name or reference. Several, as REWARD=WEIGHT, are a mix. Required."""
    reward_key: str | None = None
    """Which of the reward's named components is its value."""
    group_rm: bool = False
    """Call a reward that is named by path with a whole group at once; it returns a list."""
    step: int | None = None
    """Only this step. Unset: every step of the run."""
    rm_url: str | None = None
    """Where the reward remote_rm posts samples to. Unset: as in the run."""
    rm_timeout: float | None = None
    """Seconds that scoring one sample may take. Unset: what the reward says that it needs, else 3."""
    rm_workers: int | None = None
    """Processes that rewards compute in. Unset: half the machine's cores, at least 2 and at most 4."""
    output: Path | None = None
    """File to write every sample to, as JSON lines: both rewards, verdicts and advantages."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Job:
    """A checked command."""

    steps: dict[int, Path]
    rewards: RewardTable
    options: Options
    settings: ScoringSettings
    keep: DynamicFilter | None
    estimate: Estimate


def main(argv: Sequence[str]) -> int:
    """Rescore a run; raises UsageError with everything that is wrong before anything starts."""
    registry, words = load_plugins(argv)
    option_types = registry.catalogue.option_types
    if wants_help(words):
        print_help(USAGE, ABOUT, RescoreFlags, option_types)
        return 0
    if not words or words[0].startswith("-"):
        raise UsageError(f"usage: {USAGE}")
    run = RunDir(Path(words[0]))
    if not run.config.is_file():
        raise UsageError(f"{run.path} is no run folder: there is no {run.config.name} in it")
    recorded = parse(["--config", str(run.config)], extra=option_types)
    flags, plugin_options = read_flags(words[1:], RescoreFlags, recorded.plugin_options)
    steps = _steps(run, flags)
    job = _resolved(steps, recorded.config, flags, plugin_options, registry, typed_settings(words[1:]))
    with ExitStack() as files:
        output = files.enter_context(_open(flags.output)) if flags.output else None
        changes = asyncio.run(_run(job, output))
    _print(changes, as_json=flags.json)
    return 0


def _steps(run: RunDir, flags: RescoreFlags) -> dict[int, Path]:
    problems = list(check_scoring(flags.rm_timeout, flags.rm_workers))
    steps = stored_steps(run.rollouts)
    if not flags.reward:
        problems.append("--reward is required: the other reward, by name or reference")
    if not steps:
        problems.append(f"{run.path} has no stored samples ({run.rollouts.name}/STEP.parquet)")
    elif flags.step is not None and flags.step not in steps:
        problems.append(f"--step {flags.step}: the run has the steps {min(steps)} to {max(steps)}")
    if flags.output and run.path.resolve() in flags.output.resolve().parents:
        problems.append(f"--output {flags.output} lies in the run's folder, in which nothing is changed")
    if problems:
        raise UsageError(problems)
    return steps if flags.step is None else {flags.step: steps[flags.step]}


def _resolved(
    steps: dict[int, Path],
    recorded: Config,
    flags: RescoreFlags,
    plugin_options: Sequence[object],
    registry: Registry,
    given: Mapping[str, str],
) -> Job:
    rollout = replace(
        recorded.rollout,
        reward=flags.reward,
        reward_key=flags.reward_key,
        rm_type=None,
        custom_rm_path=None,
        group_rm=flags.group_rm,
        rm_url=flags.rm_url or recorded.rollout.rm_url,
        rm_timeout=flags.rm_timeout,
        rm_workers=flags.rm_workers,
    )
    rewards = resolve_rewards(registry, RewardReferences.from_config(rollout))
    check_rm_url(flags.rm_url, rewards)
    config = replace(recorded, rollout=rollout)
    options = Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options])
    filter_path = rollout.dynamic_sampling_filter_path
    found_filter = registry.resolve("dynamic_filter", absolute(filter_path)) if filter_path else None
    estimator = recorded.grpo.advantage_estimator
    found_advantage = registry.resolve("advantage", absolute(estimator))
    others = [found_advantage] if found_filter is None else [found_advantage, found_filter]
    check_options(registry, [*(component.resolved for component in rewards.components()), *others], given)
    keep = None if found_filter is None else cast(DynamicFilter, found_filter.make(options))
    settings = ScoringSettings(num_workers=flags.rm_workers, timeout_s=flags.rm_timeout)
    estimate = estimate_of(found_advantage.make(options), estimator)
    return Job(steps, rewards, options, settings, keep, estimate)


async def _run(job: Job, output: TextIO | None) -> dict[int, Change]:
    """What changes in each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from slimrl.rollout.rescoring import compare, rescore  # numpy: only when there is something to compare

    console = Console(stderr=True)
    columns = (TextColumn("rescore"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    changes: dict[int, Change] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        async with Scorer(job.rewards, job.options, job.settings) as scorer:
            for step, path in progress.track(job.steps.items()):
                rescored = await rescore(read_rollout(path), scorer.score, job.keep, job.estimate)
                changes[step] = compare(rescored)
                for row in _rows(step, rescored) if output else ():
                    assert output is not None
                    output.write(json.dumps(row) + "\n")
    return changes


def _rows(step: int, rescored: Rescored) -> Iterator[dict[str, Any]]:
    for old, new in zip(rescored.old, rescored.new, strict=True):
        for before, after in zip(old, new, strict=True):
            yield {
                "step": step,
                "group_id": old.group_id,
                "sample_id": before.sample_id,
                "old": before.value,
                "new": after.value,
                "status_old": before.score.status if before.score else None,
                "status_new": after.score.status if after.score else None,
                "reason": after.score.reason if after.score else "",
                "components": dict(after.score.components) if after.score else {},
                "kept_old": old.verdict.keep if old.verdict else None,
                "kept_new": new.verdict.keep if new.verdict else None,
                "advantage_old": rescored.old_advantages.get(before.sample_id),
                "advantage_new": rescored.new_advantages.get(before.sample_id),
            }


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror or error}") from error


def _print(changes: dict[int, Change], *, as_json: bool) -> None:
    from slimrl.rollout.rescoring import Change

    total = sum(changes.values(), Change())
    if as_json:
        document = {
            "steps": [{"step": step, **change.as_dict()} for step, change in changes.items()],
            "all": total.as_dict(),
        }
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, change in [*((str(step), change) for step, change in changes.items()), ("all", total)]:
        table.add_row(name, *_cells(change))
    console = Console(width=None if sys.stdout.isatty() else 100_000)
    console.print(table)
    for one in total.examples:
        new = "none" if one.new is None else f"{one.new:g}"
        said = f" ({one.reason})" if one.reason else ""
        old = "none" if one.old is None else f"{one.old:g}"
        text = f"sample {one.sample_id}: {old} -> {new}{said}: ...{json.dumps(one.response[-80:], ensure_ascii=False)}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _cells(change: Change) -> list[str]:
    told = change.as_dict()
    reward, groups, advantages = told["reward"], told["groups"], told["advantages"]
    unscored = change.num_samples - change.new["scored"]
    return [
        f"{change.num_samples:,}",
        _number(reward["mean_old"]),
        _number(reward["mean_new"]),
        f"{change.changed:,}",
        f"{unscored:,}",
        f"{groups['kept_old']:,} -> {groups['kept_new']:,}",
        f"+{groups['newly_kept']:,} -{groups['newly_dropped']:,}",
        f"{advantages['sign_changes']:,} of {advantages['compared']:,}",
        _number(advantages["correlation"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
