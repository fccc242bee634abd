"""Scoring: groups of samples in, one Score a sample out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimrl.scoring.outcome import to_score
from slimrl.scoring.settings import ScoringSettings

if TYPE_CHECKING:
    from slimrl.scoring.scorer import Scorer

__all__ = ["Scorer", "ScoringSettings", "to_score"]


def __getattr__(name: str) -> object:
    # Every worker imports this package too, and has no use for the scorer and the event loop it brings: 5 MB each.
    if name == "Scorer":
        from slimrl.scoring.scorer import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
