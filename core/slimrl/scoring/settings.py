"""How scoring is done: workers, deadlines, memory, what is remembered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30
DEFAULT_TIMEOUT_S: Final = 3.0
"""The deadline of a sample where neither --rm-timeout nor the reward's traits say one."""


@dataclass(frozen=True)
class ScoringSettings:
    """How the scorer serves its rewards."""

    num_workers: int | None = None
    """Processes for rewards that compute; None: half the machine's cores, at least 2 and at most 4."""
    timeout_s: float | None = None
    """Deadline of one sample's scoring, wall clock; None: what the reward's traits say, else 3 s."""
    start_timeout_s: float = 60.0
    """Imports and factories have this long, once, before the first sample."""
    memory_limit_bytes: int | None = 4 * GIB
    """What a worker's rewards may allocate in all."""
    cache_size: int = 10_000
    """Outcomes of pure rewards that are remembered; 0: none."""
    retries: int = 0
    """How often a sample is asked again after an error or a timeout."""
    value_required: bool = True
    """False: a mapping without a key to pick is scored, with no value."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers is {self.num_workers}; at least one worker is needed")

    @property
    def workers(self) -> int:
        """How many processes compute."""
        return self.num_workers or max(2, min(4, (os.cpu_count() or 2) // 2))
