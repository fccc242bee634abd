"""The reward curve of a run as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from slimrl.observe.progress import LOSS, REWARD, is_eval_mean


def draw_reward_curve(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    """Mean training reward by step, and every evaluation set's mean; the loss where there are no rewards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    has_rewards = any(REWARD in row for row in metrics)
    trained_by, label = (REWARD, "mean reward") if has_rewards else (LOSS, "loss")
    trained = [row for row in metrics if trained_by in row]
    steps = [row["step"] for row in trained]
    axes.plot(steps, [row[trained_by] for row in trained], label="training", color="tab:blue", marker=".")
    names = sorted({name for row in metrics for name in row if name.startswith("eval/") and is_eval_mean(name)})
    for name in names:
        rows = [row for row in metrics if name in row]
        held_out = f"held-out: {name.removeprefix('eval/')}"
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker="o", label=held_out)
    axes.set_xlabel("training steps that the weights have seen")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    scratch = path.with_name(f".{path.name}.tmp")
    figure.savefig(scratch, dpi=120, format="png")
    scratch.replace(path)
