"""The reward curve of a run as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from slimrl.observe.progress import is_eval_mean


def draw_reward_curve(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    """Mean training reward by step, and every evaluation set's mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    trained = [row for row in metrics if "rollout/reward_mean" in row]
    steps = [row["step"] for row in trained]
    axes.plot(steps, [row["rollout/reward_mean"] for row in trained], label="training", color="tab:blue", marker=".")
    names = sorted({name for row in metrics for name in row if name.startswith("eval/") and is_eval_mean(name)})
    for name in names:
        rows = [row for row in metrics if name in row]
        label = f"held-out: {name.removeprefix('eval/')}"
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    axes.set_xlabel("training steps that the weights have seen")
    axes.set_ylabel("mean reward")
    axes.grid(alpha=0.3)
    axes.legend()
    scratch = path.with_name(f".{path.name}.tmp")
    figure.savefig(scratch, dpi=120, format="png")
    scratch.replace(path)
