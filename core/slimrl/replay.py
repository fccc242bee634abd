"""A stored step computed again from a run's folder, and how far that agrees with what the run recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from slimrl.checkpoints import check_whole
from slimrl.registry.plugin_set import PluginSet
from slimrl.rollout.batch import make_batch
from slimrl.rollout.hooks import RolloutHooks
from slimrl.rollout.insufficient import is_fallback
from slimrl.rollout.loop import Filled, judge
from slimrl.rollout.metrics import rollout_metrics
from slimrl.types import Group, Sample, TrainBatch, TrainReport, Verdict

if TYPE_CHECKING:
    from slimrl.config import GrpoConfig
    from slimrl.megatron.trainer import MegatronTrainer

Value = float | str | None
"""A number; text where there is none, such as why a sample has no reward; None where nothing is there."""

OF_LAYOUT: Final = ("train/num_micro_batches", "train/num_computed_tokens")
"""What depends on how many processes trained."""
OF_SAMPLES: Final = (
    *("rollout/groups", "rollout/num_tokens", "rollout/response_len_mean", "rollout/response_len_median"),
    *("rollout/response_len_min", "rollout/response_len_max", "rollout/reward_min", "rollout/reward_max"),
    *("rollout/truncated_ratio", "rollout/unscored_ratio", "rollout/zero_std_groups", "rollout/reward_mean"),
    *("rollout/reward_std", "rollout/reward_mean_unfiltered"),
)
"""Metrics of a batch that its stored samples alone say."""


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart and still be the same."""

    relative: float = 1e-3
    absolute: float = 1e-5

    def holds(self, recorded: Value, found: Value) -> bool:
        """Whether what was found is what was recorded."""
        if isinstance(recorded, int | float) and isinstance(found, int | float):
            return math.isclose(recorded, found, rel_tol=self.relative, abs_tol=self.absolute)
        return recorded == found


EXACT: Final = Tolerance(1e-6, 1e-9)
SAME_KIND: Final = Tolerance()
"""Passes on the same kind of device in the same number format: sums may be in another order."""
OTHER_KIND: Final = Tolerance(5e-2, 2e-2)
"""Passes of a GPU or in bfloat16, against float32 on a CPU."""


@dataclass(frozen=True)
class Check:
    """One kind of value of a step, recorded and computed again."""

    step: int
    name: str
    compared: int = 0
    different: int = 0
    largest: float = 0.0
    """The largest difference; infinite where a number and something else meet."""
    where: str = ""
    """What differs most, with both values; empty where all agree."""
    left_out: str = ""
    """Why nothing was compared."""


def compare(
    step: int, name: str, recorded: Mapping[str, Value], found: Mapping[str, Value], tolerance: Tolerance
) -> Check:
    """Compare values by what they are of; one that only a side has differs."""
    largest, where, different = 0.0, "", 0
    for key in recorded.keys() | found.keys():
        old, new = recorded.get(key), found.get(key)
        distance = _distance(old, new)
        agrees = tolerance.holds(old, new)
        different += not agrees
        if not agrees and (not where or distance > largest):
            where = f"{key}: recorded {_told(old)}, now {_told(new)}"
            largest = distance
        elif not where:
            largest = max(largest, distance)
    return Check(step, name, len(recorded.keys() | found.keys()), different, largest, where)


def check_rewards(step: int, recorded: Sequence[Group], scored: Sequence[Group]) -> Check:
    """Rewards of groups that were scored again; left out where the reward cannot be run at all."""
    before, after = _by_id(recorded), _by_id(scored)
    failed = [s for i, s in after.items() if before[i].value is not None and _has_failed(s)]
    num_scored = sum(sample.value is not None for sample in before.values())
    if failed and len(failed) == num_scored:
        said = failed[0].score.reason if failed[0].score else ""
        return Check(step, "rewards", left_out=f"the reward cannot be run: {said}")
    return compare(step, "rewards", _rewards(before), _rewards(after), EXACT)


def check_samples(step: int, groups: Sequence[Group], row: Mapping[str, float]) -> Check:
    """Metrics of the batch that the stored samples say again."""
    kept = kept_groups(groups)
    if not any(sample.value is not None for group in kept for sample in group):
        return Check(step, "batch metrics", left_out="no sample was scored")
    ids = {group.group_id for group in kept}
    filled = Filled(kept=kept, dropped=[group for group in groups if group.group_id not in ids])
    found = rollout_metrics(filled, version=step)
    names = [name for name in OF_SAMPLES if name in row and name in found]
    return compare(step, "batch metrics", _some(row, names), _some(found, names), EXACT)


def check_verdicts(step: int, groups: Sequence[Group], plugins: PluginSet) -> Check:
    """The filter's verdicts on the rewards that were recorded."""
    if plugins.references.dynamic_filter is None:
        return Check(step, "verdicts", left_out="the run has no dynamic filter")
    recorded = {f"group {group.group_id}": _verdict(group.verdict) for group in groups}
    found = {}
    for group in groups:
        verdict = judge(replace(group, verdict=None), plugins.dynamic_filter)
        if is_fallback(group) and not verdict.keep:  # dropped first, taken back because there were too few
            verdict = Verdict(keep=True, reason=f"insufficient_{verdict.reason or 'unnamed'}")
        found[f"group {group.group_id}"] = _verdict(verdict)
    return compare(step, "verdicts", recorded, found, EXACT)


def check_advantages(step: int, recorded: Mapping[int, float], batch: TrainBatch, found: Iterable[float]) -> Check:
    """The mean advantage of each sample's tokens."""
    again = dict(zip(batch.sample_ids.tolist(), found, strict=True))
    return compare(step, "advantages", _of_samples(recorded), _of_samples(again), Tolerance(1e-4, 1e-5))


def check_training(step: int, row: Mapping[str, float], report: TrainReport, tolerance: Tolerance) -> Check:
    """Loss, gradient norm and the other metrics of the optimizer steps."""
    names = [n for n in row if n.startswith(("train/", "critic/")) and n in report.metrics and n not in OF_LAYOUT]
    return compare(step, "loss and gradient", _some(row, names), _some(report.metrics, names), tolerance)


def conversations_of(step: int, groups: Sequence[Group]) -> TrainBatch:
    """What a step of supervised fine-tuning was trained on, from its stored conversations."""
    batch = make_batch(step, kept_groups(groups))
    return replace(batch, advantages=np.ones(len(batch), np.float32))


def batch_of(step: int, groups: Sequence[Group], plugins: PluginSet) -> TrainBatch:
    """What the step was trained on, from its stored groups."""
    hooks = RolloutHooks(plugins, lambda *_, **__: None)
    hooks.step = step
    return hooks.make_batch(kept_groups(groups))[0]


def kept_groups(groups: Sequence[Group]) -> list[Group]:
    """The groups that were trained on; where nothing judged them all were."""
    return [group for group in groups if group.verdict is None or group.verdict.keep]


def advantages_without_model(batch: TrainBatch, plugins: PluginSet, grpo: GrpoConfig) -> list[float]:
    """The mean advantage of each sample; for an estimator that needs no log-probs of the model."""
    from slimrl.megatron.advantages import advantages_of
    from slimrl.megatron.functions import TrainFunctions
    from slimrl.megatron.known import Known

    name, functions = grpo.advantage_estimator, TrainFunctions.of(plugins)
    found = advantages_of(
        batch,
        functions.estimate(plugins.advantage, grpo),
        Known(),
        name=name,
        normalize=grpo.normalize_advantages,
        function=functions.advantage,
        postprocess=functions.postprocess,
    )
    return [float(value) for value in found.per_sample]


class ReplayedTraining:
    """A trainer that is brought to the steps of a run one after another."""

    def __init__(
        self,
        make: Callable[[], MegatronTrainer],
        starts: Mapping[int, Path | None],
        batch_at: Callable[[int], TrainBatch],
        *,
        catch_up: bool,
    ) -> None:
        """`starts` are the checkpoints by the steps that their weights have seen, None the run's first weights.

        With `catch_up` a step without a checkpoint is reached by training on the stored steps before it.
        """
        self._make, self._starts, self._batch_at, self._catch_up = make, starts, batch_at, catch_up
        self._trainer: MegatronTrainer | None = None
        self._step = -1

    def report(self, step: int, batch: TrainBatch) -> TrainReport | str:
        """What the trainer says of a step, or why it cannot be brought there."""
        if step in self._starts:
            self._load(step)
        elif self._step != step:
            earlier = [start for start in self._starts if start < step]
            if not earlier or not self._catch_up:
                there = ", ".join(map(str, sorted(self._starts))) or "none"
                way_out = f"; --catch-up trains on the stored steps from {max(earlier)} on" if earlier else ""
                return f"no weights of step {step}; those of these steps are there: {there}{way_out}"
            self._load(max(earlier))
            for between in range(max(earlier), step):
                self._train(self._batch_at(between))
        return self._train(batch)

    def _load(self, step: int) -> None:
        start = self._starts[step]
        if start is not None:
            check_whole(start, "the run's checkpoint")
        self._trainer = self._trainer or self._make()
        self._trainer.load(start)
        self._step = step

    def _train(self, batch: TrainBatch) -> TrainReport:
        assert self._trainer is not None, "loaded before"
        self._step += 1
        return self._trainer.train(batch)


def _distance(recorded: Value, found: Value) -> float:
    if isinstance(recorded, int | float) and isinstance(found, int | float):
        return abs(recorded - found)
    return 0.0 if recorded == found else math.inf


def _by_id(groups: Sequence[Group]) -> dict[int, Sample]:
    return {sample.sample_id: sample for group in groups for sample in group}


def _has_failed(sample: Sample) -> bool:
    return sample.score is None or sample.score.status in ("error", "timeout")


def _rewards(samples: Mapping[int, Sample]) -> dict[str, Value]:
    return {f"sample {i}": _reward(sample) for i, sample in samples.items()}


def _reward(sample: Sample) -> Value:
    if sample.value is not None:
        return sample.value
    return sample.score.status if sample.score else None


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not judged"
    return f"{'kept' if verdict.keep else 'dropped'} {verdict.reason}".strip()


def _of_samples(values: Mapping[int, float]) -> dict[str, Value]:
    return {f"sample {i}": value for i, value in values.items()}


def _some(values: Mapping[str, float], names: Iterable[str]) -> dict[str, Value]:
    return {name: values[name] for name in names}


def _told(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else value or "nothing"
