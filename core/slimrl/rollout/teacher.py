"""A teacher behind an engine: the log-probs that it gives the tokens of each response (--use-opd)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from slimrl.engines.client import HttpEngineClient
from slimrl.errors import EngineError
from slimrl.rollout.produce import Score as ScoreGroup
from slimrl.types import Group, Sample, Score, Status

TEACHER: Final = "teacher"
"""Whose fault it is where a sample has no answer."""
DONE: Final = (Status.COMPLETED, Status.TRUNCATED)


class Teacher:
    """Asks for every finished sample, and then has it scored.

    A sample that the teacher cannot answer for has no score, as where a reward failed: it is counted, left out of the
    loss or ends the run, by --on-unscored and --max-unscored-fraction. The client has tried again what was worth it.
    """

    def __init__(self, client: HttpEngineClient, score: ScoreGroup) -> None:
        self._client = client
        self._score = score

    async def score(self, group: Group) -> None:
        """Set log-probs of the teacher and the score of every sample that lacks them."""
        lacking = [
            sample for sample in group if sample.status in DONE and len(sample.teacher_log_probs) != len(sample.tokens)
        ]
        # before the scores: a group is finished, and may be kept for later, once it has those
        reasons = await asyncio.gather(*(self._ask(sample) for sample in lacking))
        await self._score(group)
        for sample, reason in zip(lacking, reasons, strict=True):
            if reason:
                sample.score = Score("error", reason=reason, by=TEACHER)

    async def _ask(self, sample: Sample) -> str:
        """Why there is no answer; empty where there is one."""
        tokens = [*sample.prompt_tokens, *sample.tokens]
        try:
            said = await self._client.log_probs(tokens)
        except EngineError as error:
            return str(error)
        sample.teacher_log_probs = said[len(sample.prompt_tokens) - 1 :]
        return ""


@asynccontextmanager
async def open_teacher(
    url: str, score: ScoreGroup, *, concurrency: int, vocab_size: int | None, ready_s: float
) -> AsyncIterator[Teacher]:
    """The teacher at an address; EngineError where none answers within `ready_s`."""
    async with HttpEngineClient(url, concurrency=concurrency, vocab_size=vocab_size) as client:
        try:
            await client.wait_ready(ready_s)
        except EngineError as error:
            raise EngineError(
                f"--opd-teacher-url {url}: start the teacher's engine before the run ({error})"
            ) from error
        yield Teacher(client, score)
