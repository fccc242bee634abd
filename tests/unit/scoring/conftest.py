"""A scorer of functions in a file, and samples for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl import Sample, Status, registry
from slimrl.registry import Component, Options, RewardTable
from slimrl.scoring import Scorer, ScoringSettings


@pytest.fixture
def scorer_of(tmp_path: Path) -> Callable[..., Scorer]:
    """scorer_of(source, {name: weight}, ...): not started yet; a mix if there are several."""
    number = itertools.count()

    def make(
        source: str,
        weights: dict[str, float] | None = None,
        *,
        group: bool = False,
        table: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Scorer:
        path = tmp_path / f"rewards_{next(number)}.py"
        path.write_text(source)
        plugins = registry.load([], warn=False)
        components = tuple(
            Component(name, weight, plugins.resolve("reward", f"{path}:{name}", group=group))
            for name, weight in (weights or {"score": 1.0}).items()
        )
        return Scorer(
            RewardTable(components, **(table or {})), Options(), ScoringSettings(**{"num_workers": 1, **settings})
        )

    return make


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """make_sample(response, ...): completed."""
    ids = itertools.count()

    def make(response: str, **fields: Any) -> Sample:
        number = next(ids)
        status = fields.pop("status", Status.COMPLETED)
        return Sample(0, number, number, "p", [9], tokens=[1], response=response, status=status, **fields)

    return make
