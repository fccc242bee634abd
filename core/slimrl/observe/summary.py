"""What a person reads when a run has ended: the reward before and after, where the time went, where things lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from slimrl.observe.notices import ongoing
from slimrl.observe.progress import LOSS, PHASES, REWARD, is_eval_mean
from slimrl.observe.run_dir import RunDir

Rows = Sequence[Mapping[str, float]]


def print_summary(run: RunDir, console: Console) -> None:
    """Print the summary of a run from its folder."""
    rows = run.read_metrics()
    table = Table("reward", "first", "last", "best", title="rewards", title_justify="left")
    if not (found := rewards(rows)):  # supervised fine-tuning
        table = Table("", "first", "last", "lowest", title="training", title_justify="left")
        for name in (LOSS, "train/perplexity"):
            if values := [row[name] for row in rows if name in row]:
                table.add_row(name, f"{values[0]:.3f}", f"{values[-1]:.3f}", f"{min(values):.3f}")
    for name, values in found.items():
        table.add_row(name, f"{values[0]:.3f}", f"{values[-1]:.3f}", f"{max(values):.3f}")
    console.print(table)
    if split := time_split(rows):
        console.print("time  " + "  ".join(f"{name} {share:.0%}" for name, share in split.items()), highlight=False)
    for name, step in ongoing(run).items():
        console.print(f"warning {name}, since step {step}", highlight=False)
    console.print(f"curve   {run.curve}", highlight=False, soft_wrap=True)
    console.print(f"folder  {run.path}", highlight=False, soft_wrap=True)


def rewards(rows: Rows) -> dict[str, list[float]]:
    """Mean rewards over the run by name: training, then every evaluation set."""
    names = sorted({name for row in rows for name in row if name.startswith("eval/") and is_eval_mean(name)})
    series = {"training": REWARD} | {f"held-out {name.removeprefix('eval/')}": name for name in names}
    found = {label: [row[name] for row in rows if name in row] for label, name in series.items()}
    return {label: values for label, values in found.items() if values}


def time_split(rows: Rows) -> dict[str, float]:
    """The share of the steps' wall time by phase; what no phase claims is `other`."""
    steps = [row for row in rows if "perf/step_s" in row]
    total = sum(row["perf/step_s"] for row in steps)
    if not total:
        return {}
    split = {phase: sum(row.get(f"perf/{phase}_s", 0.0) for row in steps) / total for phase in PHASES}
    split = {phase: share for phase, share in split.items() if share}
    return {**split, "other": 1 - sum(split.values())}
