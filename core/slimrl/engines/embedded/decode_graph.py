"""Decoding without launching kernels one by one: a step whose shapes stay, recorded once on a GPU and replayed.

Good while no row or prompt comes, goes or moves; a row moves when its slot is full.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from slimrl.engines.embedded.decode_attention import DecodeAttention, RowPart
from slimrl.engines.embedded.family import FamilyModel
from slimrl.engines.embedded.kv import SlotStore
from slimrl.engines.embedded.runner import Prompt, Row

logger = logging.getLogger(__name__)


class CapacityAttention(DecodeAttention):
    """Reads rows' slots to their end, whatever a row's length, which only a tensor knows: the shapes of all steps."""

    def __init__(self, prompts: SlotStore[Prompt], rows: SlotStore[Row], windows: Sequence[int | None]) -> None:
        super().__init__(prompts, rows, windows)
        self._lengths = self._tensor([row.length for row in self.rows])
        self._longest = max(pool.capacity for pool in self._row_pools)
        start = 0
        for pool in self._row_pools:
            part = slice(start, start + len(pool.owners))
            slots = torch.arange(len(pool.owners), device=self._device)
            self._row_parts.append(RowPart(pool, part, 0, (slots, self._lengths[part]), pool.capacity))
            start = part.stop

    def step(self) -> torch.Tensor:
        """Prepare one step; returns positions [rows]. `advance` ends it."""
        for window in set(self._windows):
            self._masks[window] = self._mask(self._lengths, self._longest, window)
        return self._context_lengths + self._lengths

    def advance(self, count: int = 1) -> None:
        """Every row is so many tokens longer."""
        self._lengths += count


class DecodeGraph:
    """Computes logits [rows, vocabulary] of one token a row, the first step as any, the second from a recording.

    A recording that is to be checked must repeat what the step computes.
    """

    def __init__(
        self, model: FamilyModel, prompts: SlotStore[Prompt], rows: SlotStore[Row], *, is_checked: bool
    ) -> None:
        self._model = model
        self._attention = CapacityAttention(prompts, rows, model.shape.windows)
        self.rows = self._attention.rows
        self._is_checked = is_checked
        self._tokens = torch.zeros(len(self.rows), dtype=torch.long, device=rows.shape.device)
        self._num_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the step could not be recorded."""
        return self._num_steps > 1 and self._graph is None

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed from now on."""
        return self._graph is not None

    def decode(self) -> torch.Tensor:
        """Feed every row its token; what is returned is overwritten by the next step."""
        self._tokens.copy_(torch.tensor([row.token for row in self.rows]))
        self._num_steps += 1
        if self._num_steps == 2 and self._tokens.is_cuda:
            self._record()
        if self._graph is None or self._logits is None:
            return self._compute()
        self._graph.replay()
        return self._logits

    def _compute(self) -> torch.Tensor:
        positions = self._attention.step()
        logits = self._model.logits(self._model.forward(self._tokens, positions, self._attention))
        self._attention.advance()
        return logits

    def _record(self) -> None:
        """The first step has loaded every kernel; recording computes nothing."""
        graph = torch.cuda.CUDAGraph()
        stream, now = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(now)
        try:
            # not torch.cuda.graph, which gives cached memory back first; other threads may use the GPU meanwhile
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._logits = self._compute()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            logger.warning("a decoding step cannot be recorded, decoding is slower: %s", error)
            return
        now.wait_stream(stream)
        if self._is_checked and not self._repeats(graph, self._logits):
            logger.warning("a recorded decoding step computes something else, so none is used; decoding is slower")
            return
        self._graph = graph

    def _repeats(self, graph: torch.cuda.CUDAGraph, logits: torch.Tensor) -> bool:
        expected = self._compute()
        self._attention.advance(-1)
        graph.replay()
        self._attention.advance(-1)
        return bool((logits - expected).abs().max() <= 0.01 * expected.abs().max())
