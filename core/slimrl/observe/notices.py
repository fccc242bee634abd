"""Warnings of a run that goes astray: told when one begins and when it is over; none of them stops a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Final

from slimrl.observe.run_dir import RunDir

PATIENCE: Final = 3
"""Steps in a row that a warning needs to begin, and to be over."""
NUM_FIRST: Final = 5
"""Steps at the start of a run, or when a metric first comes, that later ones are compared with."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """What is looked at, and from which value on it is a warning."""

    name: str
    measure: Callable[[Metrics], float | None]
    """None in a step that does not say."""
    limit: float
    says: str
    """What it means, with {value} and {limit}."""
    is_below: bool = False
    """Whether values below the limit are warned of, rather than those above."""
    is_relative: bool = False
    """Whether the limit is a multiple of what the measure was at first."""


def _metric(name: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics.get(name)


def _size(name: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: None if name not in metrics else abs(metrics[name])


def _flat_share(metrics: Metrics) -> float | None:
    """Groups whose samples all earned the same, of all that were finished."""
    finished = metrics.get("rollout/groups_finished")
    if not finished or "train/opd_reverse_kl" in metrics:  # a teacher teaches those too
        return None
    dropped = metrics.get("rollout/filter_dropped_zero_std", 0.0)
    return (metrics.get("rollout/zero_std_groups", 0.0) + dropped) / finished


def _top_share(metrics: Metrics) -> float | None:
    """The mean reward as a share of the best one; where the best is not above 0 nothing is known of a top."""
    best, reached = metrics.get("rollout/reward_max"), metrics.get("rollout/reward_mean_unfiltered")
    return None if best is None or reached is None or best <= 0 else reached / best


RULES: Final = (
    Rule(
        "reward_saturated",
        _top_share,
        0.98,
        "the mean reward is {value:.0%} of the best one: there is little left to learn; use harder prompts or stop",
    ),
    Rule(
        "zero_variance",
        _flat_share,
        0.8,
        "in {value:.0%} of the groups all samples earn the same and teach nothing; use prompts of another difficulty, "
        "more samples a prompt, or a dynamic filter",
    ),
    Rule(
        "engine_drift",
        _metric("train/log_prob_abs_diff"),
        0.05,
        "the log-probs of trainer and engine are {value:.3f} apart (limit {limit:g}); correct for it with --use-tis, "
        "or look at number formats and weight updates",
    ),
    Rule(
        "policy_jump",
        _size("train/ppo_kl"),
        0.1,
        "the optimizer steps of one rollout move the policy by a KL of {value:.3f} (limit {limit:g}); lower --lr or "
        "--num-steps-per-rollout",
    ),
    Rule(
        "reference_drift",
        _metric("train/kl_loss"),
        1.0,
        "the KL to the reference model is {value:.3f} (limit {limit:g}); raise --kl-loss-coef or lower --lr",
    ),
    Rule(
        "length_collapse",
        _metric("rollout/response_len_mean"),
        0.3,
        "responses have {value:.0f} tokens, below {limit:.0f}, 0.3 times as many as at first; look at what the reward "
        "pays for",
        is_below=True,
        is_relative=True,
    ),
    Rule(
        "length_explosion",
        _metric("rollout/response_len_mean"),
        3.0,
        "responses have {value:.0f} tokens, above {limit:.0f}, 3 times as many as at first; look at what the reward "
        "pays for",
        is_relative=True,
    ),
    Rule(
        "truncation",
        _metric("rollout/truncated_ratio"),
        0.3,
        "{value:.0%} of the responses are cut off; raise --rollout-max-response-len or make short answers pay",
    ),
    Rule(
        "over_long_samples",
        _metric("train/num_over_long_samples"),
        0.0,
        "{value:.0f} samples have more tokens than a micro-batch may have and are trained alone, which may take more "
        "memory than there is; raise --max-tokens-per-gpu or lower --rollout-max-response-len",
    ),
    Rule(
        "entropy_collapse",
        _metric("train/entropy"),
        0.1,
        "the policy's entropy is {value:.4f}, below {limit:.4f}, a tenth of what it was at first: it hardly explores "
        "any more; try --entropy-coef, a larger --eps-clip-high or a lower --lr",
        is_below=True,
        is_relative=True,
    ),
)


@dataclass(frozen=True)
class Notice:
    """A warning that began or is over."""

    name: str
    step: int
    begins: bool
    message: str


@dataclass
class _State:
    first: list[float] = field(default_factory=list)
    last: deque[bool] = field(default_factory=lambda: deque(maxlen=PATIENCE))
    """Whether the last steps were beyond the limit."""
    since: int | None = None


class Watch:
    """Looks at every step's metrics."""

    def __init__(self) -> None:
        self._states = {rule.name: _State() for rule in RULES}

    def see(self, step: int, metrics: Metrics) -> list[Notice]:
        """What begins or is over with this step."""
        found = (self._see(rule, self._states[rule.name], step, metrics) for rule in RULES)
        return [notice for notice in found if notice is not None]

    def _see(self, rule: Rule, state: _State, step: int, metrics: Metrics) -> Notice | None:
        value = rule.measure(metrics)
        if value is None:
            return None
        limit = rule.limit
        if rule.is_relative:
            if len(state.first) < NUM_FIRST:
                state.first.append(value)
                return None
            limit *= mean(state.first)
        state.last.append(value < limit if rule.is_below else value > limit)
        if len(state.last) < PATIENCE:
            return None
        if state.since is None and all(state.last):
            state.since = step
            return Notice(rule.name, step, True, rule.says.format(value=value, limit=limit))
        if state.since is not None and not any(state.last):
            message = f"over: it lasted from step {state.since} to {step}"
            state.since = None
            return Notice(rule.name, step, False, message)
        return None


def watch_of(run: RunDir) -> Watch:
    """A watch that has seen what a run has recorded: a resumed run does not tell it again."""
    watch = Watch()
    for row in run.read_metrics():
        watch.see(int(row["step"]), row)
    return watch


def tell(run: RunDir, notices: list[Notice], say: Callable[[str], None]) -> None:
    """Say each and write it as an event of the run."""
    for notice in notices:
        event = "warning" if notice.begins else "warning_over"
        run.event(event, warning=notice.name, step=notice.step, message=notice.message)
        say(f"[yellow]warning {notice.name}[/] at step {notice.step}: {notice.message}")


def ongoing(run: RunDir) -> dict[str, int]:
    """The warnings that are not over, with the step at which they began."""
    told: list[dict[str, Any]] = []
    for event in run.read_events():
        if event.get("event") in ("warning", "warning_over"):
            told.append(event)
        elif event.get("event") == "start":  # a resumed run makes the steps from there on again
            told = [one for one in told if one["step"] < event["step"]]
    found: dict[str, int] = {}
    for one in told:
        if one["event"] == "warning":
            found[one["warning"]] = one["step"]
        else:
            found.pop(one["warning"], None)
    return found
