"""Evaluation: every prompt of a held-out set, the same noise every time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from slimrl.data.prompts import PromptRow
from slimrl.data.source import Encode, Prompts, new_group
from slimrl.rollout.loop import Produce
from slimrl.rollout.unscored import unscored_metrics
from slimrl.types import Group, SamplingParams, Status


@dataclass(frozen=True)
class EvalSet:
    """A named set of encoded prompts and how it is sampled."""

    name: str
    rows: list[tuple[PromptRow, list[int]]]
    """Each prompt with its token ids."""
    sampling: SamplingParams
    group_size: int
    seed: int

    def groups(self) -> list[Group]:
        """Pending groups, with the same seeds every time: two evaluations differ by the weights alone."""
        return [
            new_group(row, tokens, group_id=i, size=self.group_size, seed=self.seed, source=self.name)
            for i, (row, tokens) in enumerate(self.rows)
        ]


def encode_all(prompts: Prompts, encode: Encode) -> list[tuple[PromptRow, list[int]]]:
    """Every row with its token ids."""
    rows = ((prompts[i], prompts.where(i)) for i in range(len(prompts)))
    return [(row, encode(row.prompt, where)) for row, where in rows]


async def evaluate(groups: Sequence[Group], produce: Produce) -> list[Group]:
    """Generate and score all groups at once; the engine queues what it cannot hold."""
    return list(await asyncio.gather(*(produce(group) for group in groups)))


def eval_metrics(name: str, groups: Sequence[Group]) -> dict[str, float]:
    """Mean reward over the scored samples, and the shares of truncated and unscored ones."""
    samples = [sample for group in groups for sample in group]
    values = [sample.value for sample in samples if sample.value is not None]
    metrics = {
        f"eval/{name}-truncated_ratio": sum(s.status is Status.TRUNCATED for s in samples) / len(samples),
        f"eval/{name}-unscored_ratio": 1 - len(values) / len(samples),
        f"eval/{name}-response_len_mean": sum(len(s.tokens) for s in samples) / len(samples),
    }
    metrics |= unscored_metrics(groups, f"eval/{name}-")
    if values:  # a set without a single score has no mean, and 0 would be a lie
        metrics[f"eval/{name}"] = sum(values) / len(values)
    return metrics
