"""Turns that an aborted sample has already: they are played again without asking the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slimrl import Completion, EngineClient, Sample, SamplingParams


class Resuming:
    """The engine, asked only for what the sample's earlier attempt has not got; keeps a list of turns as JSON.

    An environment that asks something else than it did before gets fresh answers from there on.
    """

    def __init__(self, engine: EngineClient, sample: Sample, turns: Sequence[dict[str, Any]] | None) -> None:
        self._engine = engine
        self._sequence = sample.prompt_tokens + sample.tokens
        self._begin = len(sample.prompt_tokens)
        self._sample = sample
        self._earlier = list(turns if turns is not None else _one_turn(sample)) if sample.tokens else []
        self.turns: list[dict[str, Any]] = []
        """What each turn was: where it begins, how many tokens it has, its text and how it ended."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        """A turn that is there, the rest of one, or a new one."""
        had = self._known(input_ids)
        if had is None or had.finish_reason == "abort":
            asked, left = list(input_ids), sampling
            if had is not None:
                asked += had.tokens
                left = replace(sampling, max_new_tokens=sampling.max_new_tokens - len(had.tokens))
            if left.max_new_tokens > 0:
                new = await self._engine.generate(asked, left, request_id=request_id)
                had = new if had is None else _joined(had, new)
            elif had is not None:
                had = replace(had, finish_reason="length")
        assert had is not None
        turn = {"begin": len(input_ids), "count": len(had.tokens), "text": had.text, "finish": had.finish_reason}
        self.turns.append(turn)
        return had

    def _known(self, input_ids: Sequence[int]) -> Completion | None:
        if not self._earlier:
            return None
        turn = self._earlier.pop(0)
        begin, end = turn["begin"], turn["begin"] + turn["count"]
        if begin != len(input_ids) or self._sequence[:begin] != list(input_ids):
            self._earlier.clear()
            return None
        place = slice(begin - self._begin, end - self._begin)
        return Completion(
            tokens=self._sample.tokens[place],
            log_probs=self._sample.log_probs[place],
            weight_versions=self._sample.weight_versions[place],
            text=turn["text"],
            finish_reason=turn["finish"],
        )


def _one_turn(sample: Sample) -> list[dict[str, Any]]:
    """The turns of a sample that another generator began: all its tokens are the begin of the first reply."""
    begin = len(sample.prompt_tokens)
    return [{"begin": begin, "count": len(sample.tokens), "text": sample.response, "finish": "abort"}]


def _joined(had: Completion, new: Completion) -> Completion:
    return replace(
        new,
        tokens=had.tokens + new.tokens,
        log_probs=had.log_probs + new.log_probs,
        weight_versions=had.weight_versions + new.weight_versions,
        text=had.text + new.text,
    )
