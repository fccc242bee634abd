"""Attention over stored keys and values: of whole prompts when they come in, of one token a row while decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from slimrl.engines.embedded.kv import SlotPool, SlotStore
from slimrl.engines.embedded.packing import Pack
from slimrl.engines.embedded.runner import Prompt, Row

HIDDEN = -1e30
"""Added to the score of a token that must not be seen; finite, so that a part with none to see weighs 0, not NaN."""


class PrefillAttention:
    """Stores a pass's keys and values in the prompts' slots and lets every own token see its prompt's past."""

    def __init__(self, pack: Pack, store: SlotStore[Prompt], windows: Sequence[int | None]) -> None:
        device = store.shape.device
        self._windows = windows
        self._parts = [(part, store.pool_of(part.prompt)) for part in pack.parts]
        self._writes = []
        for pool in {id(pool): pool for _, pool in self._parts}.values():
            members = [part for part, its_pool in self._parts if its_pool is pool]
            slots = [part.prompt.slot for part in members for _ in part.nodes]
            positions = [part.prompt.num_done + place for part in members for place in range(len(part.nodes))]
            nodes = [node for part in members for node in part.nodes]
            index = torch.tensor([slots, positions, nodes], device=device)
            self._writes.append((pool, index[0], index[1], index[2]))
        self._masks = {
            window: [self._mask(part.own_start, part.end, window, device) for part in pack.parts]
            for window in set(windows)
        }

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of one layer; see `family.Attend`."""
        for pool, slots, positions, nodes in self._writes:
            pool.keys[layer][slots, :, positions] = key[nodes]
            pool.values[layer][slots, :, positions] = value[nodes]
        rows, num_heads, head_dim = query.shape
        attended = query.new_empty(rows, num_heads, head_dim)
        by_head = query.transpose(0, 1)[None]
        for (part, pool), mask in zip(self._parts, self._masks[self._windows[layer]], strict=True):
            own = slice(part.first_own, part.first_own + part.num_own)
            result = F.scaled_dot_product_attention(
                by_head[:, :, own],
                pool.keys[layer, part.prompt.slot, None, :, : part.end],
                pool.values[layer, part.prompt.slot, None, :, : part.end],
                attn_mask=mask,
                is_causal=mask is None and part.num_own > 1,
                enable_gqa=True,
            )
            attended[own] = result[0].transpose(0, 1)
        return attended.view(rows, num_heads * head_dim)

    @staticmethod
    def _mask(start: int, end: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        if window is not None and end <= window:
            window = None
        if window is None and (start == 0 or end - start == 1):
            return None
        queries = torch.arange(start, end, device=device)[:, None]
        keys = torch.arange(end, device=device)
        visible = keys <= queries
        return visible if window is None else visible & (keys > queries - window)


@dataclass(slots=True)
class _PromptPart:
    """The rows that continue the prompts of one pool, padded to the largest family."""

    pool: SlotPool[Prompt]
    members: torch.Tensor
    """[prompts, width] row of each member; padding repeats row 0."""
    length: int
    """Tokens of the longest prompt."""
    lengths: torch.Tensor | None
    """[prompts] where they differ."""


class DecodeAttention:
    """One token a row: a prompt's keys and values are read once for all rows that continue it.

    A row's context is in two places, its prompt's slot and its own. Each is attended to by itself and the two are
    joined by their softmax denominators, which is exact.
    """

    def __init__(self, prompts: SlotStore[Prompt], rows: SlotStore[Row], windows: Sequence[int | None]) -> None:
        self._windows = windows
        self._device = rows.shape.device
        self._row_pools = rows.pools()
        self.rows: list[Row] = [row for pool in self._row_pools for row in pool.owners]
        place_of = {id(row): place for place, row in enumerate(self.rows)}
        families: dict[int, list[int]] = {}
        for row in self.rows:
            families.setdefault(id(row.prompt), []).append(place_of[id(row)])
        self._prompt_parts: list[_PromptPart] = []
        origin = [0] * len(self.rows)
        offset = 0
        for pool in prompts.pools():
            places = [families.get(id(prompt), []) for prompt in pool.owners]
            width = max(len(family) for family in places)
            if width == 0:
                continue
            for index, family in enumerate(places):
                for column, place in enumerate(family):
                    origin[place] = offset + index * width + column
            offset += len(places) * width
            lengths = [len(prompt.context) for prompt in pool.owners]
            self._prompt_parts.append(
                _PromptPart(
                    pool=pool,
                    members=torch.tensor([f + [0] * (width - len(f)) for f in places], device=self._device),
                    length=max(lengths),
                    lengths=torch.tensor(lengths, device=self._device) if len(set(lengths)) > 1 else None,
                )
            )
        self._origin = torch.tensor(origin, device=self._device)
        self._prompt_masks: dict[int | None, list[torch.Tensor | None]] = {}
        self._row_masks: dict[int | None, list[torch.Tensor | None]] = {}
        self._lengths: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        """Per pool of rows: slots, places that this step writes, and the longest row after it."""

    def step(self) -> torch.Tensor:
        """Prepare one step, after which every row is one token longer; returns positions [rows]."""
        lengths = [row.length for row in self.rows]
        positions = torch.tensor([len(row.prompt.context) + row.length for row in self.rows], device=self._device)
        self._lengths = []
        uneven = []
        start = 0
        for pool in self._row_pools:
            count = len(pool.owners)
            own = lengths[start : start + count]
            places = torch.tensor(own, device=self._device)
            self._lengths.append((torch.arange(count, device=self._device), places, max(own) + 1))
            uneven.append(min(own) != max(own))
            start += count
        for window in set(self._windows):
            if window is not None or window not in self._prompt_masks:
                self._prompt_masks[window] = [self._prompt_mask(part, positions, window) for part in self._prompt_parts]
            self._row_masks[window] = [
                self._row_mask(places, longest, window)
                if is_uneven or (window is not None and longest > window)
                else None
                for (_, places, longest), is_uneven in zip(self._lengths, uneven, strict=True)
            ]
        return positions

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of one layer; see `family.Attend`."""
        rows, num_heads, head_dim = query.shape
        num_kv_heads = key.shape[1]
        window = self._windows[layer]
        query = (query * head_dim**-0.5).view(rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
        own, own_total = self._attend_rows(layer, query, key, value, self._row_masks[window])
        given, given_total = self._attend_prompts(layer, query, self._prompt_masks[window])
        share = torch.sigmoid(given_total - own_total).to(query.dtype)
        return torch.lerp(own, given, share).reshape(rows, num_heads * head_dim)

    def _attend_rows(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        masks: Sequence[torch.Tensor | None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        results = []
        start = 0
        for pool, (slots, places, longest), mask in zip(self._row_pools, self._lengths, masks, strict=True):
            count = len(pool.owners)
            mine = slice(start, start + count)
            start += count
            keys, values = pool.keys[layer], pool.values[layer]
            keys[slots, :, places] = key[mine]
            values[slots, :, places] = value[mine]
            scores = torch.matmul(query[mine], keys[:count, :, :longest].transpose(-1, -2)).float()
            if mask is not None:
                scores += mask
            results.append(_weigh(scores, values[:count, :, :longest]))
        return _joined(results)

    def _attend_prompts(
        self, layer: int, query: torch.Tensor, masks: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _, num_kv_heads, share, head_dim = query.shape
        results = []
        for part, mask in zip(self._prompt_parts, masks, strict=True):
            count, width = part.members.shape
            keys = part.pool.keys[layer, :count, :, : part.length]
            values = part.pool.values[layer, :count, :, : part.length]
            asked = query[part.members].transpose(1, 2).reshape(count, num_kv_heads, width * share, head_dim)
            scores = torch.matmul(asked, keys.transpose(-1, -2)).float()
            if mask is not None:
                scores.view(count, num_kv_heads, width, share, part.length).add_(mask)
            result, total = _weigh(scores, values)
            results.append((_by_member(result, width), _by_member(total, width)))
        results_, totals = _joined(results)
        return results_[self._origin], totals[self._origin]

    def _prompt_mask(self, part: _PromptPart, positions: torch.Tensor, window: int | None) -> torch.Tensor | None:
        """[prompts, 1, width or 1, 1, length] added to scores."""
        if window is None and part.lengths is None:
            return None
        keys = torch.arange(part.length, device=self._device)
        hidden = keys.new_zeros((1, 1, 1), dtype=torch.bool)
        if part.lengths is not None:
            hidden = keys >= part.lengths[:, None, None]
        if window is not None:
            hidden = hidden | (keys <= positions[part.members][..., None] - window)
        return _added(hidden)[:, None, :, None]

    def _row_mask(self, places: torch.Tensor, longest: int, window: int | None) -> torch.Tensor | None:
        """[rows, 1, 1, longest] added to scores."""
        keys = torch.arange(longest, device=self._device)
        hidden = keys > places[:, None]
        if window is not None:
            hidden = hidden | (keys <= places[:, None] - window)
        return _added(hidden)[:, None, None]


def _added(hidden: torch.Tensor) -> torch.Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, HIDDEN)


def _weigh(scores: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted values and the logarithm of the softmax denominator [..., 1]."""
    total = torch.logsumexp(scores, -1, keepdim=True)
    return torch.matmul((scores - total).exp_().to(values.dtype), values), total


def _by_member(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """[prompts, kv_heads, width * share, x] -> [prompts * width, kv_heads, share, x]."""
    count, num_kv_heads, rows, size = tensor.shape
    return (
        tensor.view(count, num_kv_heads, width, rows // width, size)
        .transpose(1, 2)
        .reshape(count * width, num_kv_heads, rows // width, size)
    )


def _joined(results: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(results) == 1:
        return results[0]
    return torch.cat([result for result, _ in results]), torch.cat([total for _, total in results])
