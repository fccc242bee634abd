"""Scoring: groups of samples in, one Score a sample out."""

from __future__ import annotations

from slimrl.scoring.outcome import to_score
from slimrl.scoring.scorer import Scorer
from slimrl.scoring.settings import ScoringSettings

__all__ = ["Scorer", "ScoringSettings", "to_score"]
