"""Attention over stored keys and values: of whole prompts when they come in, of one token a row while decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from slimrl.engines.embedded.kv import SlotPool, SlotStore
from slimrl.engines.embedded.packing import Pack
from slimrl.engines.embedded.runner import Prompt, Row


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
    rows: torch.Tensor
    """[rows of this part]"""
    origin: torch.Tensor
    """[rows of this part] place of each row in `members`, flattened."""
    length: int
    """Tokens of the longest prompt."""


@dataclass(slots=True)
class _RowPart:
    """The rows of one pool, for one step."""

    pool: SlotPool[Row]
    rows: slice
    slots: torch.Tensor
    places: torch.Tensor
    """[rows of this part] where this step's keys and values go."""
    length: int
    """Tokens of the longest row after this step."""


class DecodeAttention:
    """One token a row: a prompt's keys and values are read once for all rows that continue it.

    A row's context is in two places, its prompt's slot and its own. The scores of both stand side by side for the
    softmax, prompt first: [rows, kv_heads, heads per kv head, longest prompt + longest row].
    """

    def __init__(self, prompts: SlotStore[Prompt], rows: SlotStore[Row], windows: Sequence[int | None]) -> None:
        self._windows = windows
        self._device = rows.shape.device
        self._row_pools = rows.pools()
        self.rows: list[Row] = [row for pool in self._row_pools for row in pool.owners]
        families: dict[int, list[int]] = {}
        for place, row in enumerate(self.rows):
            families.setdefault(id(row.prompt), []).append(place)
        found = (self._prompt_part(pool, families) for pool in prompts.pools())
        self._prompt_parts = [part for part in found if part is not None]
        self._row_parts: list[_RowPart] = []
        self._prompt_length = max(part.length for part in self._prompt_parts)
        self._context_lengths = self._tensor([len(row.prompt.context) for row in self.rows])
        self._has_even_prompts = len(set(self._context_lengths.tolist())) == 1
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def step(self) -> torch.Tensor:
        """Prepare one step, after which every row is one token longer; returns positions [rows]."""
        lengths = [row.length for row in self.rows]
        self._row_parts = []
        start = 0
        for pool in self._row_pools:
            rows = slice(start, start + len(pool.owners))
            own = lengths[rows]
            slots = torch.arange(len(own), device=self._device)
            self._row_parts.append(_RowPart(pool, rows, slots, self._tensor(own), max(own) + 1))
            start = rows.stop
        own_lengths = self._tensor(lengths)
        is_even = self._has_even_prompts and min(lengths) == max(lengths)
        for window in set(self._windows):
            is_plain = is_even and (window is None or self._prompt_length + lengths[0] < window)
            self._masks[window] = None if is_plain else self._mask(own_lengths, max(lengths) + 1, window)
        return self._context_lengths + own_lengths

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of one layer; see `family.Attend`."""
        rows, num_heads, head_dim = query.shape
        num_kv_heads = key.shape[1]
        share = num_heads // num_kv_heads
        split = self._prompt_length
        query = (query * head_dim**-0.5).view(rows, num_kv_heads, share, head_dim)
        scores = query.new_empty((rows, num_kv_heads, share, split + max(part.length for part in self._row_parts)))
        for own in self._row_parts:
            keys, values = own.pool.keys[layer], own.pool.values[layer]
            keys[own.slots, :, own.places] = key[own.rows]
            values[own.slots, :, own.places] = value[own.rows]
            seen = keys[: len(own.slots), :, : own.length]
            scores[own.rows, :, :, split : split + own.length] = query[own.rows] @ seen.transpose(-1, -2)
        for given in self._prompt_parts:
            count, width = given.members.shape
            asked = query[given.members].transpose(1, 2).reshape(count, num_kv_heads, width * share, head_dim)
            seen = given.pool.keys[layer, :count, :, : given.length]
            by_row = _by_member(asked @ seen.transpose(-1, -2), width)[given.origin]
            if len(self._prompt_parts) == 1:
                scores[..., :split] = by_row
            else:
                scores[given.rows, :, :, : given.length] = by_row
        mask = self._masks[self._windows[layer]]
        if mask is not None:
            # what a short part leaves unwritten in `scores` is masked too
            scores = torch.where(mask, scores, -torch.inf)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
        attended = torch.empty_like(query)
        for own in self._row_parts:
            seen = own.pool.values[layer, : len(own.slots), :, : own.length]
            attended[own.rows] = weights[own.rows, :, :, split : split + own.length] @ seen
        for given in self._prompt_parts:
            count, width = given.members.shape
            seen = given.pool.values[layer, :count, :, : given.length]
            shares = weights[..., : given.length][given.members].transpose(1, 2)
            result = shares.reshape(count, num_kv_heads, width * share, given.length) @ seen
            if len(self._prompt_parts) == 1:
                attended += _by_member(result, width)[given.origin]
            else:
                attended.index_add_(0, given.rows, _by_member(result, width)[given.origin])
        return attended.view(rows, num_heads * head_dim)

    def _prompt_part(self, pool: SlotPool[Prompt], families: Mapping[int, list[int]]) -> _PromptPart | None:
        members = [families.get(id(prompt), []) for prompt in pool.owners]
        width = max(len(family) for family in members)
        if width == 0:
            return None
        placed = sorted(
            (row, index * width + column) for index, family in enumerate(members) for column, row in enumerate(family)
        )
        return _PromptPart(
            pool=pool,
            members=self._tensor([family + [0] * (width - len(family)) for family in members]),
            rows=self._tensor([row for row, _ in placed]),
            origin=self._tensor([place for _, place in placed]),
            length=max(len(prompt.context) for prompt, family in zip(pool.owners, members, strict=True) if family),
        )

    def _mask(self, own_lengths: torch.Tensor, longest: int, window: int | None) -> torch.Tensor:
        """[rows, 1, 1, longest prompt + longest row] of what each row sees."""
        places = torch.arange(self._prompt_length + longest, device=self._device)
        own_places = places - self._prompt_length
        context, own = self._context_lengths[:, None], own_lengths[:, None]
        visible = torch.where(own_places < 0, places < context, own_places <= own)
        if window is not None:
            positions = torch.where(own_places < 0, places, own_places + context)
            visible &= positions > context + own - window
        return visible[:, None, None]

    def _tensor(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._device)


def _by_member(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """[prompts, kv_heads, width * share, x] -> [prompts * width, kv_heads, share, x]."""
    count, num_kv_heads, rows, size = tensor.shape
    share = rows // width
    return (
        tensor.view(count, num_kv_heads, width, share, size)
        .transpose(1, 2)
        .reshape(count * width, num_kv_heads, share, size)
    )
