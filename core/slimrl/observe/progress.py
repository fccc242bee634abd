"""What a person sees of a running job: a bar, and one line a step with reward, speed and where the time goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PHASES = ("generate", "train", "sync", "save", "record")
REWARD, LOSS = "rollout/reward_mean", "train/loss"
"""What a run is watched by: its reward, or its loss where there is none."""


class StepProgress:
    """A context manager around the training loop."""

    def __init__(self, total: int, start: int, *, console: Console, live: bool) -> None:
        self._console = console
        self._total = total
        self._live = live
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (live and console.is_terminal),
        )
        self._task = self._bar.add_task("starting", total=total, completed=start)

    def __enter__(self) -> StepProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def phase(self, name: str) -> None:
        """Say what is going on now."""
        self._bar.update(self._task, description=name)

    def say(self, message: str) -> None:
        """A line for the reader, above the bar."""
        self._console.print(message, highlight=False, soft_wrap=True)

    def step_done(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the line of one step."""
        self._bar.update(self._task, completed=step + 1)
        if self._live:
            self.say(step_line(step, self._total, metrics))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the line of one evaluation: the mean reward of every set."""
        means = {n.removeprefix("eval/"): v for n, v in metrics.items() if n.startswith("eval/") and is_eval_mean(n)}
        if self._live and means:
            self.say(f"[cyan]eval at step {step}[/]  " + "  ".join(f"{n} {v:.3f}" for n, v in means.items()))


def is_eval_mean(name: str) -> bool:
    """Whether a metric is the mean reward of an evaluation set, not one of its side figures."""
    return not re.search(
        r"-(truncated_ratio|unscored_\w[^/]*|failed_\w+|response_len_(mean|max)|score_seconds_(mean|max)|pass@\d+"
        r"|reward_.*_mean)$",
        name,
    )


def step_line(step: int, total: int, metrics: Mapping[str, float]) -> str:
    """`step 3/14  reward 0.41  312 tok/s  4.1 s: generate 52%, train 41%, ...`"""
    step_s = metrics["perf/step_s"]
    aim, name = ("reward", REWARD) if REWARD in metrics else ("loss", LOSS)
    shares = ", ".join(
        f"{phase} {metrics[f'perf/{phase}_s'] / step_s:.0%}"
        for phase in PHASES
        if metrics.get(f"perf/{phase}_s", 0.0) > 0.005 * step_s
    )
    return (
        f"step {step + 1}/{total}  {aim} [bold]{metrics[name]:.3f}[/]"
        f"  length {metrics['rollout/response_len_mean']:.1f}"
        f"  {metrics['perf/tokens_per_s']:.0f} tok/s  {step_s:.1f} s: {shares}"
    )
