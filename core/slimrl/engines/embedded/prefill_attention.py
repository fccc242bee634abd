"""Attention of whole prompts, when they come in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from slimrl.engines.embedded.kv import SlotStore
from slimrl.engines.embedded.packing import Pack
from slimrl.engines.embedded.runner import Prompt


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
                scale=1.0,
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
