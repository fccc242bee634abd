"""Scoring: groups of samples in, one Score a sample out."""

from __future__ import annotations

from slimrl.scoring.outcome import to_score
from slimrl.scoring.scorer import Scorer

__all__ = ["Scorer", "to_score"]
