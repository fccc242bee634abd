"""Decoding whose numbers do not depend on the company: matrix products of one fixed size, attention row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slimrl.engines.embedded.family import Attend, FamilyModel
from slimrl.engines.embedded.kv import SlotStore
from slimrl.engines.embedded.runner import Prompt, Row
from slimrl.engines.embedded.threads import one_thread

BLOCK = 16
"""Rows of every matrix product: libraries choose the order of a sum by the shape, so the shape never changes."""


class RowAttention:
    """Attention of one token a row, each row over exactly its own past."""

    def __init__(self, prompts: SlotStore[Prompt], rows: SlotStore[Row], windows: Sequence[int | None]) -> None:
        self._prompts = prompts
        self._rows = rows
        self._windows = windows
        self.rows = [row for pool in rows.pools() for row in pool.owners]

    def step(self) -> torch.Tensor:
        """Positions [rows] of the tokens to feed."""
        positions = [len(row.prompt.context) + row.length for row in self.rows]
        return torch.tensor(positions, device=self._rows.shape.device)

    def of(self, rows: Sequence[Row]) -> Attend:
        """Attention for a block that begins with these rows; what pads it attends to nothing."""

        def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            count, num_heads, head_dim = query.shape
            num_kv_heads = key.shape[1]
            by_group = query.view(count, num_kv_heads, num_heads // num_kv_heads, head_dim)
            attended = torch.zeros_like(by_group)
            with one_thread():
                for index, row in enumerate(rows):
                    attended[index] = self._attend(layer, row, by_group[index], key[index], value[index])
            return attended.view(count, num_heads * head_dim)

        return attend

    def _attend(
        self, layer: int, row: Row, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """[kv_heads, heads per kv head, head_dim] of one row."""
        given, own = self._prompts.pool_of(row.prompt), self._rows.pool_of(row)
        own.keys[layer, row.slot, :, row.length] = key
        own.values[layer, row.slot, :, row.length] = value
        num_given, num_own = len(row.prompt.context), row.length + 1
        window = self._windows[layer]
        first = 0 if window is None else max(0, num_given + num_own - window)
        given_span, own_span = slice(min(first, num_given), num_given), slice(max(0, first - num_given), num_own)
        scores = torch.cat(
            (
                torch.bmm(query, given.keys[layer, row.prompt.slot, :, given_span].transpose(1, 2)),
                torch.bmm(query, own.keys[layer, row.slot, :, own_span].transpose(1, 2)),
            ),
            -1,
        )
        weights = torch.softmax(scores.float(), -1).to(query.dtype)
        split = given_span.stop - given_span.start
        return torch.bmm(weights[..., :split], given.values[layer, row.prompt.slot, :, given_span]) + torch.bmm(
            weights[..., split:], own.values[layer, row.slot, :, own_span]
        )


def decode_in_blocks(
    model: FamilyModel, tokens: torch.Tensor, positions: torch.Tensor, attention: RowAttention
) -> torch.Tensor:
    """Hidden states [rows, hidden], computed in blocks of `BLOCK` rows of which the last is padded."""
    hidden = []
    for start in range(0, len(attention.rows), BLOCK):
        rows = attention.rows[start : start + BLOCK]
        count = len(rows)
        padded = torch.zeros((2, BLOCK), dtype=torch.long, device=tokens.device)
        padded[0, :count] = tokens[start : start + count]
        padded[1, :count] = positions[start : start + count]
        hidden.append(model.forward(padded[0], padded[1], attention.of(rows))[:count])
    return torch.cat(hidden)


def logits_in_blocks(model: FamilyModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [rows, vocabulary] of hidden states, in blocks of `BLOCK` rows of which the last is padded."""
    logits = []
    for rows in torch.split(hidden, BLOCK):
        padded = hidden.new_zeros((BLOCK, hidden.shape[1]))
        padded[: len(rows)] = rows
        logits.append(model.logits(padded)[: len(rows)])
    return torch.cat(logits)
