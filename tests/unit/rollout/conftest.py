"""An engine that generates token after token on the event loop, can be aborted, and counts what it did for whom."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from slimrl.errors import EngineError
from slimrl.types import Completion, SamplingParams


class SimulatedEngine:
    """Every token takes one turn of the event loop; lengths, pauses and failures are drawn from a seed."""

    def __init__(self, seed: int, *, fail_share: float = 0.0, version: int = 0) -> None:
        self._random = random.Random(seed)
        self._fail_share = fail_share
        self.version = version
        self.running: dict[int, asyncio.Event] = {}
        self.aborts = 0
        self.tokens_made = 0
        self.max_running = 0
        self.seeds: list[tuple[int | None, int]] = []
        """Seed and length of the input of every request."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        self.seeds.append((sampling.sampling_seed, len(input_ids)))
        aborted, key = asyncio.Event(), len(self.seeds)
        self.running[key] = aborted
        self.max_running = max(self.max_running, len(self.running))
        tokens: list[int] = []
        versions: list[int] = []
        try:
            length = min(self._random.randint(1, 12), sampling.max_new_tokens)
            fails = self._random.random() < self._fail_share
            while len(tokens) < length:
                for _ in range(self._random.randint(1, 2)):
                    await asyncio.sleep(0)
                if aborted.is_set():
                    return self._completion(tokens, versions, "abort")
                if fails and self._random.random() < 0.3:
                    raise EngineError("503: it fell over")
                tokens.append(len(input_ids) + len(tokens))  # a token is its place in the sequence
                versions.append(self.version)
                self.tokens_made += 1
            return self._completion(tokens, versions, "length" if length == sampling.max_new_tokens else "stop")
        finally:
            del self.running[key]

    async def abort_all(self) -> None:
        self.aborts += 1
        await asyncio.sleep(0)
        for aborted in list(self.running.values()):
            aborted.set()

    def _completion(self, tokens: list[int], versions: list[int], reason: str) -> Completion:
        text = "".join(f"<{token}>" for token in tokens)
        return Completion(tokens, [-0.5] * len(tokens), versions, text, reason)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def simulated_engine() -> type[SimulatedEngine]:
    """The engine itself: a test makes as many as it has processes."""
    return SimulatedEngine
