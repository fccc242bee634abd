"""`slimrl score`: rewards over a file of responses that are there already."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from slimrl.cli.command_flags import print_help, read_flags, typed_settings, wants_help
from slimrl.cli.main import EXIT_INTERRUPTED
from slimrl.cli.plugin_flags import check_options, load_plugins
from slimrl.cli.reward_flags import check_rm_url, check_scoring, shown_command
from slimrl.config import Config, RolloutConfig
from slimrl.errors import SlimrlError, UsageError
from slimrl.registry import Options, RewardReferences, RewardTable, resolve_rewards
from slimrl.scoring import Scorer
from slimrl.scoring.outcome_file import OutcomeFile, Tally
from slimrl.scoring.sample_file import RowKeys, SampleFile, Scan
from slimrl.scoring.score_file import score_file
from slimrl.scoring.settings import ScoringSettings

USAGE: Final = "slimrl score --rm-type NAME --input FILE.jsonl --output OUT.jsonl [FLAGS]"
ABOUT: Final = (
    "Score every line of a JSON lines file ({response, label, prompt?, metadata?}); one line of OUT for each, in "
    "order. The same command goes on where a stopped one ended."
)


@dataclass(frozen=True)
class ScoreFlags:
    """The flags of `slimrl score`."""

    input: Path | None = None
    """JSON lines file of responses. Required."""
    output: Path | None = None
    """JSON lines file of outcomes. Required. One that is there already is continued if it belongs to the input."""
    rm_type: str | None = None
    """Reward by name; a line whose metadata has rm_type is scored by that one."""
    custom_rm_path: str | None = None
    """Reward by reference: pkg.mod:attr, pkg.mod.attr or file.py:attr. Overrides --reward and --rm-type."""
    reward: tuple[str, ...] = ()
    """REWARD=WEIGHT, several times for a mix; the weight may be left out and is 1."""
    reward_key: str | None = None
    """Which of a reward's named components is its value."""
    rm_url: str | None = None
    """Where the reward remote_rm posts samples to."""
    rm_timeout: float | None = None
    """Seconds that scoring one line may take. Unset: what the reward says that it needs, else 3."""
    rm_workers: int | None = None
    """Processes that rewards compute in. Unset: half the machine's cores, at least 2 and at most 4."""
    response_key: str = RowKeys.response
    """Key of the response in a line."""
    label_key: str = RowKeys.label
    """Key of the ground truth in a line; lines may lack it."""
    prompt_key: str = RowKeys.prompt
    """Key of the prompt in a line; lines may lack it."""
    metadata_key: str = RowKeys.metadata
    """Key of a line's metadata; lines may lack it."""
    json: bool = False
    """Print the summary as JSON."""


@dataclass(frozen=True)
class Job:
    """A checked command."""

    source: SampleFile
    scan: Scan
    outcomes: OutcomeFile
    rewards: RewardTable
    options: Options
    settings: ScoringSettings


def main(argv: Sequence[str]) -> int:
    """Score a file; raises UsageError with everything that is wrong before anything starts."""
    registry, words = load_plugins(argv)
    option_types = registry.catalogue.option_types
    if wants_help(words):
        print_help(USAGE, ABOUT, ScoreFlags, option_types)
        return 0
    flags, plugin_options = read_flags(words, ScoreFlags, option_types)
    rollout = _rollout(flags)
    source, output = _checked(flags)
    scan = source.scan()
    rewards = resolve_rewards(registry, RewardReferences.from_config(rollout, scan.rm_types))
    check_rm_url(flags.rm_url, rewards)
    check_options(registry, [component.resolved for component in rewards.components()], typed_settings(words))
    config = Config(rollout=rollout)
    options = Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options])
    identity = _identity(source, scan, rewards, plugin_options)
    settings = ScoringSettings(num_workers=flags.rm_workers, timeout_s=flags.rm_timeout, value_required=False)
    job = Job(source, scan, OutcomeFile(output, identity), rewards, options, settings)
    started = time.perf_counter()
    with job.outcomes:
        num_kept = job.outcomes.num_lines
        try:
            asyncio.run(_run(job))
        except KeyboardInterrupt:
            return _interrupted(job, argv)
        except OSError as error:
            raise SlimrlError(f"{error.filename or output}: {error.strerror or error}") from error
    summary = Summary(output, job.outcomes.tally, job.outcomes.num_lines, num_kept, time.perf_counter() - started)
    summary.print(as_json=flags.json)
    return 0


@dataclass(frozen=True)
class Summary:
    """What a finished command tells."""

    output: Path
    tally: Tally
    num_lines: int
    num_kept: int
    """Lines that an earlier command had scored."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        counts = {status: self.tally.counts[status] for status in ("scored", "abstained", "error", "timeout")}
        return {
            "lines": self.num_lines,
            "counts": counts,
            "mean_value": self.tally.mean_value,
            "seconds": round(self.seconds, 3),
            "kept_lines": self.num_kept,
            "output": str(self.output),
        }

    def print(self, *, as_json: bool) -> None:
        """Write it to stdout."""
        if as_json:
            sys.stdout.write(json.dumps(self.as_dict(), ensure_ascii=False) + "\n")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        new = self.num_lines - self.num_kept
        kept = f", {self.num_kept:,} of them were there" if self.num_kept else ""
        speed = f" ({new / self.seconds:,.0f} lines/s)" if new and self.seconds > 0 else ""
        mean = self.tally.mean_value
        rows = [("lines", f"{self.num_lines:,}{kept}")]
        rows += [(status, f"{count:,}") for status, count in self.as_dict()["counts"].items()]
        rows += [("mean value", "none" if mean is None else f"{mean:.4f}"), ("time", f"{self.seconds:.1f} s{speed}")]
        rows += [("for example" if i == 0 else "", text) for i, text in enumerate(self.tally.examples)]
        rows += [("output", str(self.output))]
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        Console(width=None if sys.stdout.isatty() else 100_000).print(table)


async def _run(job: Job) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if job.outcomes.num_lines == job.scan.num_lines:
        return  # nothing is left: no worker need start
    console = Console(stderr=True)
    columns = (TextColumn("score"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("score", total=job.scan.num_lines, completed=job.outcomes.num_lines)
        async with Scorer(job.rewards, job.options, job.settings) as scorer:
            await score_file(
                job.source, job.outcomes, scorer, lambda num_lines: progress.update(task, completed=num_lines)
            )


def _checked(flags: ScoreFlags) -> tuple[SampleFile, Path]:
    problems = list(check_scoring(flags.rm_timeout, flags.rm_workers))
    if flags.input is None:
        problems.append("--input is required: a JSON lines file of responses")
    elif not flags.input.is_file():
        problems.append(f"--input {flags.input}: there is no such file")
    if flags.output is None:
        problems.append("--output is required: the file that outcomes are written to")
    elif flags.output.exists() and not flags.output.is_file():
        problems.append(f"--output {flags.output} is no file")
    elif not flags.output.parent.is_dir():
        problems.append(f"--output {flags.output}: there is no folder {flags.output.parent}")
    elif flags.input and flags.input.exists() and flags.output.exists() and flags.output.samefile(flags.input):
        problems.append(f"--output {flags.output} is the input; give another file")
    if problems:
        raise UsageError(problems)
    assert flags.input is not None and flags.output is not None, "checked above"
    keys = RowKeys(flags.response_key, flags.label_key, flags.prompt_key, flags.metadata_key)
    return SampleFile(flags.input, keys), flags.output


def _rollout(flags: ScoreFlags) -> RolloutConfig:
    """What rewards read of the flags that they have in training too; everything else is as it is by default."""
    names = {field.name for field in fields(RolloutConfig)} & {field.name for field in fields(flags)}
    return RolloutConfig(**{name: getattr(flags, name) for name in names})


def _identity(source: SampleFile, scan: Scan, rewards: RewardTable, plugin_options: Sequence[Any]) -> dict[str, Any]:
    """What makes an outcome: kept beside the outcomes, compared before they are continued."""
    return {
        "input": f"{scan.num_lines} lines, sha256 {scan.sha256}",
        "reward": {component.name: component.weight for component in rewards.default},
        "reward source": {c.resolved.reference: c.resolved.file_hash for c in rewards.components()},
        "--reward-key": rewards.reward_key,
        "set of keys": asdict(source.keys),
        "plugin option": {type(one).__name__: repr(one) for one in plugin_options},
    }


def _interrupted(job: Job, argv: Sequence[str]) -> int:
    done, total = job.outcomes.num_lines, job.scan.num_lines
    command = shown_command(["slimrl", "score", *argv], job.options[RolloutConfig].rm_url)
    sys.stderr.write(f"stopped; {done:,} of {total:,} lines are done. Go on with:\n{command}\n")
    return EXIT_INTERRUPTED
