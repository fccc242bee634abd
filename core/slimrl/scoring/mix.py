"""Several rewards of one sample as one score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from slimrl.registry import Component
from slimrl.types import Score, ScoreStatus

WORSE: Final[tuple[ScoreStatus, ...]] = ("scored", "abstained", "timeout", "error")


def combine(parts: Sequence[tuple[Component, Score]]) -> Score:
    """A single reward's score as it is; of a mix the weighted sum, with every component's value under its name.

    A mix with a component that has no score has none either, and the status of the worst. No reward at all is 0.
    """
    if not parts:
        return Score.scored(0.0)
    ((component, score), *others) = parts
    if not others and component.weight == 1.0:
        return replace(score, by=component.name)
    values = _values(parts)
    reward = {component.name: score.reward for component, score in parts}
    seconds = max(score.seconds for _, score in parts)
    blamed, worst = max(parts, key=lambda part: WORSE.index(part[1].status))
    if worst.status != "scored":
        reason = f"{blamed.name}: {worst.reason}"
        return Score(worst.status, None, reward, values, reason, seconds, by=blamed.name)
    weighted = [component.weight * score.value for component, score in parts if score.value is not None]
    value = sum(weighted) if len(weighted) == len(parts) else None
    return Score("scored", value, reward, values, "", seconds, by="+".join(component.name for component, _ in parts))


def _values(parts: Sequence[tuple[Component, Score]]) -> Mapping[str, float]:
    values: dict[str, float] = {}
    for component, score in parts:
        if score.value is not None:
            values[component.name] = score.value
        values |= {f"{component.name}/{name}": value for name, value in score.components.items()}
    return values
