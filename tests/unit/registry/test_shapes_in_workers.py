"""Every shape of reward function, scored in a worker process as in a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from slimrl import Group, Sample, Score, Status, registry
from slimrl.registry import Options, RewardReferences, resolve_rewards
from slimrl.scoring import Scorer, ScoringSettings

SOURCE = """
def trl(completions, ground_truth, **kwargs):
    return [float(c == t) if c else None for c, t in zip(completions, ground_truth)]
async def trl_async(prompts, completions, answer, **kwargs):
    return [float(c == t) if c else None for c, t in zip(completions, answer)]
def verl(data_source, solution_str, ground_truth, extra_info=None):
    return float(solution_str == ground_truth) if solution_str else None
def verl_parts(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str == ground_truth), "pred": solution_str} if solution_str else None
def slime(args, sample, **kwargs):
    return float(sample.response == sample.label) if sample.response else None
def ours_of_group(samples):
    return [float(s.response == s.label) if s.response else None for s in samples]
def slime_of_group(args, samples, **kwargs):
    return ours_of_group(samples)
"""


def scores(reference: str, *, group: bool = False, responses: tuple[str, ...] = ("7", "8", "")) -> list[Score]:
    table = resolve_rewards(registry.load(warn=False), RewardReferences.one(reference, group=group))
    samples = [
        Sample(0, i, i, "3 + 4?", [1], label="7", response=response, tokens=[2], status=Status.COMPLETED)
        for i, response in enumerate(responses)
    ]

    async def score() -> None:
        async with Scorer(table, Options(), ScoringSettings(num_workers=1)) as scorer:
            await scorer.score(Group(0, samples))

    asyncio.run(score())
    return [sample.score for sample in samples if sample.score is not None]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("trl", False),
        ("trl", True),
        ("trl_async", False),
        ("trl_async", True),
        ("verl", False),
        ("verl_parts", False),
        ("slime", False),
        ("ours_of_group", True),
        ("slime_of_group", True),
    ],
)
def test_a_function_of_any_shape_scores_and_abstains(tmp_path: Path, name: str, group: bool) -> None:
    path = tmp_path / "foreign.py"
    path.write_text(SOURCE)
    found = scores(f"{path}:{name}", group=group)
    assert [(s.status, s.value, s.reason if s.status == "error" else "") for s in found] == [
        ("scored", 1.0, ""),
        ("scored", 0.0, ""),
        ("abstained", None, ""),
    ]


def test_a_boxed_reward_is_found_again_in_its_worker() -> None:
    found = scores("boxed_f1", responses=(r"the words of \boxed{7}", "7"))
    assert [(s.status, s.value) for s in found] == [("scored", 1.0), ("scored", 0.0)]
