"""Evaluation: every prompt of a held-out set, the same noise every time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.lengths import Lengths
from slimrl.data.encoder import PromptEncoder
from slimrl.data.limits import PromptLimits
from slimrl.data.prompts import PromptRow
from slimrl.data.source import Encode, Prompts, new_group
from slimrl.data.training import open_evaluation
from slimrl.errors import RolloutError
from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.run_dir import RunDir
from slimrl.rollout.events import tell_outcomes
from slimrl.rollout.failures import failure_metrics
from slimrl.rollout.loop import Produce
from slimrl.rollout.pass_rate import pass_rate_metrics
from slimrl.rollout.settings import RolloutSettings
from slimrl.rollout.unscored import first_failure, metric_name, unscored_metrics
from slimrl.types import Group, Sample, SamplingParams, Status


@dataclass(frozen=True)
class EvalSet:
    """A named set of encoded prompts and how it is sampled."""

    name: str
    rows: list[tuple[PromptRow, list[int]]]
    """Each prompt with its token ids."""
    sampling: SamplingParams
    group_size: int
    seed: int
    generator: str = ""
    """The reference of what fills its samples."""
    pass_threshold: float = 1.0
    """A response with this value or more passes."""
    ks: tuple[int, ...] = ()
    """Each k of pass@k; none: 1, 2, 4, ... up to the group's size."""

    def groups(self) -> list[Group]:
        """Pending groups, with the same seeds every time: two evaluations differ by the weights alone."""
        return [
            new_group(row, tokens, group_id=i, size=self.group_size, seed=self.seed, source=self.name)
            for i, (row, tokens) in enumerate(self.rows)
        ]

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """What the finished groups come to."""
        return eval_metrics(self.name, groups, pass_threshold=self.pass_threshold, ks=self.ks)


def encode_all(prompts: Prompts, encode: Encode) -> list[tuple[PromptRow, list[int]]]:
    """Every row with its token ids."""
    rows = ((prompts[i], prompts.where(i)) for i in range(len(prompts)))
    return [(row, encode(row, where)) for row, where in rows]


def read_eval_sets(settings: RolloutSettings, encoder: PromptEncoder) -> list[EvalSet]:
    """The evaluation sets that the configuration names, read and encoded; `encoder` is that of training."""
    config, rollout = settings.eval, settings.rollout
    model = open_hf_folder(settings.hf_checkpoint, "--hf-checkpoint")
    sets = []
    for dataset in settings.eval_sets:
        limits = PromptLimits.of(Lengths.of_evaluation(config, rollout, dataset), model)
        prompts = open_evaluation(dataset, config, rollout)
        sets.append(
            EvalSet(
                name=dataset.name,
                rows=encode_all(prompts, encoder.within(limits).encode),
                sampling=settings.eval_sampling(dataset),
                group_size=dataset.n_samples_per_eval_prompt or config.n_samples_per_eval_prompt,
                seed=rollout.rollout_seed,
                generator=dataset.custom_generate_function_path or rollout.custom_generate_function_path,
                pass_threshold=config.eval_pass_threshold if dataset.pass_threshold is None else dataset.pass_threshold,
                ks=dataset.k or (),
            )
        )
    return sets


async def evaluate(
    sets: Sequence[EvalSet],
    produce_with: Callable[[EvalSet], Produce],
    run: RunDir,
    step: int,
    *,
    stop_on_unscored: bool = False,
    results: dict[str, list[Group]] | None = None,
) -> dict[str, float]:
    """Metrics of every set under the engine's weights, which have seen `step` steps; samples and reasons are stored.

    All prompts of a set are asked at once; the engine queues what it cannot hold. Raises RolloutError at a set with a
    sample that could not be scored, if told to. `results` gets the groups by set.
    """
    metrics: dict[str, float] = {}
    for eval_set in sets:
        produce = produce_with(eval_set)
        groups = list(await asyncio.gather(*(produce(group) for group in eval_set.groups())))
        metrics |= eval_set.metrics(groups)
        if results is not None:
            results[eval_set.name] = groups
        store_evaluation(run.path, eval_set.name, step, groups)
        tell_outcomes(run, groups, eval_set.generator, step=step, eval_set=eval_set.name)
        if stop_on_unscored and (failure := first_failure(groups)):
            raise RolloutError(f"evaluation set {eval_set.name}: {failure}")
    return metrics


def eval_metrics(
    name: str, groups: Sequence[Group], *, pass_threshold: float = 1.0, ks: Sequence[int] = ()
) -> dict[str, float]:
    """Mean reward and pass@k over the scored samples, lengths, and the shares of truncated and unscored ones.

    None at all of a set without samples; a set without a single score has no mean and no pass@k: 0 would be a lie.
    """
    samples = [sample for group in groups for sample in group]
    if not samples:
        return {}
    values = [sample.value for sample in samples if sample.value is not None]
    lengths = [len(sample.tokens) for sample in samples]
    prefix = f"eval/{name}-"
    metrics = {
        f"{prefix}truncated_ratio": sum(s.status is Status.TRUNCATED for s in samples) / len(samples),
        f"{prefix}unscored_ratio": 1 - len(values) / len(samples),
        f"{prefix}response_len_mean": sum(lengths) / len(samples),
        f"{prefix}response_len_max": float(max(lengths)),
    }
    metrics |= unscored_metrics(groups, prefix)
    metrics |= failure_metrics(groups, prefix)
    metrics |= _components(groups, prefix)
    metrics |= pass_rate_metrics(groups, prefix, pass_threshold, ks)
    if values:
        metrics[f"eval/{name}"] = _mean_reward(samples)
    return metrics


def _mean_reward(samples: Sequence[Sample]) -> float:
    """The mean over rollouts: the siblings of a fan-out weigh as one, by the mean of those that were scored."""
    by_rollout: dict[int, list[float]] = {}
    for sample in samples:
        if sample.value is not None:
            by_rollout.setdefault(sample.rollout_id, []).append(sample.value)
    return math.fsum(sum(values) / len(values) for values in by_rollout.values()) / len(by_rollout)


def _components(groups: Sequence[Group], prefix: str) -> dict[str, float]:
    """The mean of every named part of the rewards."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for sample in group:
            for name, value in (sample.score.components if sample.score else {}).items():
                values.setdefault(name, []).append(value)
    return {f"{prefix}reward_{metric_name(name)}_mean": sum(found) / len(found) for name, found in values.items()}


def store_evaluation(run: Path, name: str, step: int, groups: Sequence[Group]) -> Path:
    """Write a set's samples to RUN/eval/NAME/STEP.parquet, with the columns of a rollout."""
    folder = run / "eval" / name
    folder.mkdir(parents=True, exist_ok=True)
    return write_rollout(folder, step, groups, {})
