"""One request as the engine sees it: what was asked, and what has been generated so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from slimrl.engines.embedded.params import Sampling

FinishReason = dict[str, Any]
"""SGLang's object: {"type": "length", "length": N}, {"type": "stop", "matched": ...} or {"type": "abort", ...}."""

TopTokens = list[tuple[float, int]]
"""(log-prob, token id), likeliest first."""


@dataclass(slots=True)
class VersionSpan:
    """Output tokens [start, end) that one version of the weights produced."""

    version: str
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Request:
    """Asked by the server, advanced by the scheduler's thread; others only read it."""

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    """Decides every draw together with the token's index, whatever else runs."""
    score_from: int | None = None
    """First prompt position whose log-prob is reported; None for none."""
    num_top: int = 0
    """Likeliest tokens reported at each position."""
    done: Future[None] = field(default_factory=Future)
    on_progress: Callable[[], None] | None = None
    """Called on the scheduler's thread after every token."""
    created_s: float = field(default_factory=time.monotonic)
    finished_s: float | None = None
    output_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    top: list[TopTokens] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)
    weight_version: str = ""
    """The version that was current when the request last moved."""
    input_log_probs: list[float] = field(default_factory=list)
    """Of prompt tokens from max(score_from, 1) on."""
    input_top: list[TopTokens] = field(default_factory=list)
    num_cached: int = 0
    num_retractions: int = 0
    finish_reason: FinishReason | None = None

    @property
    def context(self) -> tuple[int, ...]:
        """Prompt and output so far."""
        return self.prompt_ids + tuple(self.output_ids) if self.output_ids else self.prompt_ids

    def append(self, token: int, log_prob: float, top: TopTokens | None, version: str) -> None:
        """Add one output token."""
        count = len(self.output_ids)
        self.log_probs.append(log_prob)
        if top is not None:
            self.top.append(top)
        if self.spans and self.spans[-1].version == version:
            self.spans[-1].end = count + 1
        else:
            self.spans.append(VersionSpan(version, count, count + 1))
        self.weight_version = version
        # last: a reader on another thread takes the number of ids as the number of everything
        self.output_ids.append(token)
