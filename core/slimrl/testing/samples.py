"""Samples and groups as a run would hand them to a plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimrl.types import Group, Prompt, Sample, Score, Status


def make_sample(
    response: str = "",
    label: Any = None,  # Any: a label is any JSON value
    metadata: Mapping[str, Any] | None = None,
    prompt: Prompt = "What is 3 + 4?",
    *,
    status: Status = Status.COMPLETED,
    value: float | None = None,
    group_id: int = 0,
    sample_id: int = 0,
) -> Sample:
    """A finished sample of this response; with `value`, a scored one.

    A token is a byte of the text, and every per-token list has its length.
    """
    text = prompt if isinstance(prompt, str) else "\n".join(str(message.get("content")) for message in prompt)
    sample = Sample(
        group_id=group_id,
        sample_id=sample_id,
        rollout_id=sample_id,
        prompt=prompt,
        prompt_tokens=list(text.encode()),
        label=label,
        metadata=dict(metadata or {}),
        seed=sample_id,
        status=status,
        score=None if value is None else Score.scored(value),
    )
    tokens = list(response.encode())
    sample.append(tokens, [-1.0] * len(tokens), [1] * len(tokens), text=response)
    return sample


def make_group(
    items: Sequence[str | float | Sample | None],
    label: Any = None,  # Any: a label is any JSON value
    *,
    group_id: int = 0,
    prompt: Prompt = "What is 3 + 4?",
) -> Group:
    """A group of one prompt: a text is a response, a number a scored sample, None a sample without a score."""
    samples: list[Sample] = []
    for place, item in enumerate(items):
        if isinstance(item, Sample):
            samples.append(item)
            continue
        response = item if isinstance(item, str) else f"answer {place}"
        sample_id = group_id * len(items) + place
        sample = make_sample(response, label, prompt=prompt, group_id=group_id, sample_id=sample_id)
        if item is None:
            sample.score = Score(status="error", reason="the reward raised ValueError: no number in it")
        elif not isinstance(item, str):
            sample.score = Score.scored(item)
        samples.append(sample)
    return Group(group_id, samples)
