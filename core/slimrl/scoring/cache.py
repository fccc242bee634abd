"""Outcomes of pure rewards that are remembered, and those that are being computed right now."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
from collections import OrderedDict

from slimrl.types import Sample, Score

Pending = asyncio.Future[list[Score]]


class ScoreCache:
    """The last `size` outcomes. It lives in a scorer: source and options of a reward are the same throughout."""

    def __init__(self, size: int) -> None:
        self.hits = 0
        """How many samples were answered without calling their reward."""
        self.pending: dict[bytes, Pending] = {}
        self._size = size
        self._scores: OrderedDict[bytes, Score] = OrderedDict()

    def key(self, reward: int, keys: tuple[str, ...], sample: Sample) -> bytes | None:
        """What identifies an outcome of a pure reward; None where nothing is remembered or the sample is odd."""
        if not self._size:
            return None
        try:
            content = pickle.dumps((reward, keys, sample.prompt, sample.response, sample.label, sample.metadata), 5)
        except Exception:  # metadata may hold anything
            return None
        return hashlib.blake2b(content, digest_size=16).digest()

    def get(self, key: bytes) -> Score | None:
        """A remembered outcome."""
        score = self._scores.get(key)
        if score is not None:
            self.hits += 1
            self._scores.move_to_end(key)
        return score

    def put(self, key: bytes, score: Score) -> None:
        """Remember an outcome; trouble is not remembered, it may pass."""
        if score.status in ("error", "timeout"):
            return
        self._scores[key] = score
        if len(self._scores) > self._size:
            self._scores.popitem(last=False)
