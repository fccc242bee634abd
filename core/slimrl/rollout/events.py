"""What the run's events say of samples that could not be generated or scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slimrl.observe.run_dir import RunDir
from slimrl.rollout.failures import find_failures
from slimrl.rollout.unscored import find_unscored
from slimrl.types import Group

MAX_TOLD: Final = 20
"""Reasons at most in one event."""


def tell_outcomes(run: RunDir, groups: Sequence[Group], generator: str, **where: str | int) -> None:
    """An event `failed` for what the generator could not fill, and one `unscored` for what has no score."""
    if failures := find_failures(groups):
        told = [entry.told() for entry in failures[:MAX_TOLD]]
        run.event("failed", **where, generator=generator, outcomes=told)
    if unscored := find_unscored(groups):
        run.event("unscored", **where, outcomes=[entry.told() for entry in unscored[:MAX_TOLD]])
