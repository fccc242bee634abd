"""Attention of one token a row, over what its prompt's slot and its own slot hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from slimrl.engines.embedded.kv import SlotPool, SlotStore
from slimrl.engines.embedded.runner import Prompt, Row
from slimrl.engines.embedded.threads import one_thread

_SMALL = 2048
"""Tokens seen by all rows, below which one CPU thread attends to them."""


@dataclass(frozen=True, slots=True)
class PromptPart:
    """The prompts of one pool and the rows that continue them: a prompt's keys are read once for its whole family."""

    pool: SlotPool[Prompt]
    count: int
    width: int
    """Rows of the largest family; smaller ones are padded."""
    length: int
    """Tokens of the longest prompt."""
    members: torch.Tensor | None
    """[count, width] row of each member, padding repeats row 0; None when that is simply all rows in order."""
    origin: torch.Tensor
    """[rows of this part] place of each row in `members`, flattened."""
    rows: torch.Tensor | None
    """[rows of this part] which rows they are; None for all."""

    def scores(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """[rows of this part, kv_heads, share, length] of query [rows, kv_heads, share, head_dim]."""
        keys = self.pool.keys[layer, : self.count].flatten(0, 1)[:, : self.length]
        return self._ungather(torch.bmm(self._gather(query), keys.transpose(1, 2)), query)

    def attend(self, layer: int, weights: torch.Tensor) -> torch.Tensor:
        """[rows of this part, kv_heads, share, head_dim] of weights [rows, kv_heads, share, length]."""
        values = self.pool.values[layer, : self.count].flatten(0, 1)[:, : self.length]
        return self._ungather(torch.bmm(self._gather(weights), values), weights)

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[rows, kv_heads, share, x] -> [count * kv_heads, width * share, x]."""
        _, num_kv_heads, share, size = tensor.shape
        if self.members is not None:
            tensor = tensor[self.members]
        by_prompt = tensor.view(self.count, self.width, num_kv_heads, share, size).transpose(1, 2)
        return by_prompt.reshape(self.count * num_kv_heads, self.width * share, size)

    def _ungather(self, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """[count * kv_heads, width * share, x] -> [rows of this part, kv_heads, share, x]."""
        _, num_kv_heads, share, _ = like.shape
        size = tensor.shape[-1]
        by_member = tensor.view(self.count, num_kv_heads, self.width, share, size).transpose(1, 2)
        flat = by_member.reshape(self.count * self.width, num_kv_heads, share, size)
        return flat if self.members is None else flat[self.origin]


@dataclass(frozen=True, slots=True)
class RowPart:
    """The rows of one pool in one step."""

    pool: SlotPool[Row]
    rows: slice
    place: int
    """Where this step's keys and values go, when that is the same in all slots."""
    scatter: tuple[torch.Tensor, torch.Tensor] | None
    """Slots and places, [rows of this part] each, when it is not."""
    length: int
    """Tokens of the longest row after this step."""

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put this step's key and value [rows, kv_heads, head_dim] into the slots."""
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        count = self.rows.stop - self.rows.start
        if self.scatter is None:
            keys[:count, :, self.place] = key[self.rows]
            values[:count, :, self.place] = value[self.rows]
        else:
            slots, places = self.scatter
            keys[slots, :, places] = key[self.rows]
            values[slots, :, places] = value[self.rows]

    def scores(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """[rows of this part, kv_heads, share, length] of query [rows, kv_heads, share, head_dim]."""
        own = query[self.rows]
        keys = self.pool.keys[layer, : len(own)].flatten(0, 1)[:, : self.length]
        return torch.bmm(own.flatten(0, 1), keys.transpose(1, 2)).view(*own.shape[:3], self.length)

    def attend(self, layer: int, weights: torch.Tensor) -> torch.Tensor:
        """[rows of this part, kv_heads, share, head_dim] of weights [rows, kv_heads, share, length]."""
        own = weights[self.rows]
        values = self.pool.values[layer, : len(own)].flatten(0, 1)[:, : self.length]
        return torch.bmm(own.reshape(-1, *own.shape[2:]), values).view(*own.shape[:3], values.shape[-1])


class DecodeAttention:
    """One plan for all rows, good until a row or prompt comes, goes or moves.

    The scores of prompt and row stand side by side for one softmax, prompt first:
    [rows, kv_heads, heads per kv head, longest prompt + longest row].
    """

    def __init__(self, prompts: SlotStore[Prompt], rows: SlotStore[Row], windows: Sequence[int | None]) -> None:
        self._windows = windows
        self._device = rows.shape.device
        self._row_pools = rows.pools()
        self.rows: list[Row] = [row for pool in self._row_pools for row in pool.owners]
        families: dict[int, list[int]] = {}
        for place, row in enumerate(self.rows):
            families.setdefault(id(row.prompt), []).append(place)
        self._prompt_parts = [
            self._prompt_part(pool, families)
            for pool in prompts.pools()
            if any(id(prompt) in families for prompt in pool.owners)
        ]
        self._row_parts: list[RowPart] = []
        self._split = max(part.length for part in self._prompt_parts)
        """Where the row's own scores begin."""
        context_lengths = [len(row.prompt.context) for row in self.rows]
        self._has_even_prompts = len(set(context_lengths)) == 1
        self._context_lengths = self._tensor(context_lengths)
        self._masks: dict[int | None, torch.Tensor | None] = {}
        self._is_small = False

    def step(self) -> torch.Tensor:
        """Prepare one step, after which every row is one token longer; returns positions [rows]."""
        lengths = [row.length for row in self.rows]
        self._row_parts = []
        start = 0
        for pool in self._row_pools:
            rows = slice(start, start + len(pool.owners))
            own = lengths[rows]
            scatter = None
            if min(own) != max(own):
                scatter = torch.arange(len(own), device=self._device), self._tensor(own)
            self._row_parts.append(RowPart(pool, rows, own[0], scatter, max(own) + 1))
            start = rows.stop
        num_seen = len(lengths) * (self._split + max(lengths) + 1)
        self._is_small = self._device.type == "cpu" and num_seen < _SMALL
        own_lengths = self._tensor(lengths)
        is_even = self._has_even_prompts and min(lengths) == max(lengths)
        for window in set(self._windows):
            sees_all = is_even and (window is None or self._split + lengths[0] < window)
            self._masks[window] = None if sees_all else self._mask(own_lengths, max(lengths) + 1, window)
        return self._context_lengths + own_lengths

    def __call__(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of one layer; see `family.Attend`."""
        if not self._is_small:
            return self._attend(layer, query, key, value)
        with one_thread():
            return self._attend(layer, query, key, value)

    def _attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        rows, num_heads, head_dim = query.shape
        num_kv_heads = key.shape[1]
        query = query.view(rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
        for own in self._row_parts:
            own.store(layer, key, value)
        scores = torch.cat((self._prompt_scores(layer, query), self._row_scores(layer, query)), -1)
        mask = self._masks[self._windows[layer]]
        if mask is not None:
            # what shorter parts left unwritten in `scores` is hidden too
            scores = torch.where(mask, scores, -torch.inf)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
        attended = self._row_values(layer, weights[..., self._split :])
        for given in self._prompt_parts:
            found = given.attend(layer, weights[..., : given.length])
            if given.rows is None:
                attended += found
            else:
                attended.index_add_(0, given.rows, found)
        return attended.view(rows, num_heads * head_dim)

    def _prompt_scores(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        if len(self._prompt_parts) == 1:
            return self._prompt_parts[0].scores(layer, query)
        scores = query.new_empty((*query.shape[:3], self._split))
        for given in self._prompt_parts:
            scores[given.rows, :, :, : given.length] = given.scores(layer, query)
        return scores

    def _row_scores(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        if len(self._row_parts) == 1:
            return self._row_parts[0].scores(layer, query)
        scores = query.new_empty((*query.shape[:3], max(own.length for own in self._row_parts)))
        for own in self._row_parts:
            scores[own.rows, :, :, : own.length] = own.scores(layer, query)
        return scores

    def _row_values(self, layer: int, weights: torch.Tensor) -> torch.Tensor:
        found = [own.attend(layer, weights[..., : own.length]) for own in self._row_parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _prompt_part(self, pool: SlotPool[Prompt], families: Mapping[int, list[int]]) -> PromptPart:
        members = [families.get(id(prompt), []) for prompt in pool.owners]
        width = max(len(family) for family in members)
        padded = [row for family in members for row in family + [0] * (width - len(family))]
        placed = sorted(
            (row, index * width + column) for index, family in enumerate(members) for column, row in enumerate(family)
        )
        is_all = len(placed) == len(self.rows)
        is_in_order = is_all and padded == list(range(len(self.rows)))
        return PromptPart(
            pool=pool,
            count=len(members),
            width=width,
            length=max(len(prompt.context) for prompt, family in zip(pool.owners, members, strict=True) if family),
            members=None if is_in_order else self._tensor(padded).view(len(members), width),
            origin=self._tensor([place for _, place in placed]),
            rows=None if is_all else self._tensor([row for row, _ in placed]),
        )

    def _mask(self, own_lengths: torch.Tensor, longest: int, window: int | None) -> torch.Tensor:
        """[rows, 1, 1, longest prompt + longest row] of what each row sees."""
        places = torch.arange(self._split + longest, device=self._device)
        own_places = places - self._split
        context, own = self._context_lengths[:, None], own_lengths[:, None]
        visible = torch.where(own_places < 0, places < context, own_places <= own)
        if window is not None:
            positions = torch.where(own_places < 0, places, own_places + context)
            visible &= positions > context + own - window
        return visible[:, None, None]

    def _tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._device)
