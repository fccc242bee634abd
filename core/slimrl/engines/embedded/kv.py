"""Where keys and values live: slots of a few sizes, always dense, so that attention reads plain slices.

A pool holds slots of one capacity for all layers. Slots in use are the first ones: when one is given up the last moves
into its place. A sequence that outgrows its slot moves to the pool of twice the capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

SMALLEST_CAPACITY = 16


class Owner(Protocol):
    """What occupies one slot; the store keeps `slot` and `capacity` up to date."""

    slot: int
    capacity: int


OwnerT = TypeVar("OwnerT", bound=Owner)


def capacity_for(length: int) -> int:
    """Tokens of the smallest slot that holds a length: a power of two."""
    return max(SMALLEST_CAPACITY, 1 << (length - 1).bit_length())


@dataclass(frozen=True)
class SlotShape:
    """What one token's keys and values take."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize


class SlotPool(Generic[OwnerT]):
    """Slots of one capacity; `keys` and `values` are [layers, slots, kv_heads, capacity, head_dim]."""

    def __init__(self, shape: SlotShape, capacity: int) -> None:
        self.shape = shape
        self.capacity = capacity
        self.owners: list[OwnerT] = []
        self.keys = self._empty(0)
        self.values = self._empty(0)

    def add(self, owner: OwnerT) -> None:
        """Give an owner the next slot."""
        count = len(self.owners)
        if count == self.keys.shape[1]:
            self._resize(count + max(1, count // 2, min(8, 4096 // self.capacity)))
        owner.slot, owner.capacity = count, self.capacity
        self.owners.append(owner)

    def remove(self, owner: OwnerT) -> None:
        """Give up a slot; the last one moves into it."""
        last = self.owners.pop()
        if last is not owner:
            self.keys[:, owner.slot] = self.keys[:, last.slot]
            self.values[:, owner.slot] = self.values[:, last.slot]
            self.owners[owner.slot] = last
            last.slot = owner.slot
        if not self.owners:
            self.keys, self.values = self._empty(0), self._empty(0)

    def _resize(self, count: int) -> None:
        used = len(self.owners)
        keys, values = self._empty(count), self._empty(count)
        keys[:, :used] = self.keys[:, :used]
        values[:, :used] = self.values[:, :used]
        self.keys, self.values = keys, values

    def _empty(self, count: int) -> torch.Tensor:
        shape = self.shape
        size = (shape.num_layers, count, shape.num_kv_heads, self.capacity, shape.head_dim)
        # zeros: what a mask hides is still multiplied by zero, and garbage may be infinite
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)


class SlotStore(Generic[OwnerT]):
    """Pools by capacity, smallest first."""

    def __init__(self, shape: SlotShape) -> None:
        self.shape = shape
        self._pools: dict[int, SlotPool[OwnerT]] = {}
        self.tokens_held = 0
        """Capacity of all slots in use."""
        self.generation = 0
        """Changes whenever an owner comes, goes or moves."""

    def pools(self) -> list[SlotPool[OwnerT]]:
        """Pools in use, by capacity."""
        return [self._pools[capacity] for capacity in sorted(self._pools)]

    def pool_of(self, owner: OwnerT) -> SlotPool[OwnerT]:
        """The pool that holds an owner's slot."""
        return self._pools[owner.capacity]

    def add(self, owner: OwnerT, length: int) -> None:
        """Give an owner a slot for a length."""
        capacity = capacity_for(length)
        if capacity not in self._pools:
            self._pools[capacity] = SlotPool(self.shape, capacity)
        self._pools[capacity].add(owner)
        self.tokens_held += capacity
        self.generation += 1

    def remove(self, owner: OwnerT) -> None:
        """Give up an owner's slot."""
        pool = self.pool_of(owner)
        pool.remove(owner)
        if not pool.owners:
            del self._pools[pool.capacity]
        self.tokens_held -= pool.capacity
        self.generation += 1

    def copy(self, source: OwnerT, target: OwnerT, length: int) -> None:
        """Copy the first `length` tokens of one slot into another."""
        if length:
            source_pool, target_pool = self.pool_of(source), self.pool_of(target)
            target_pool.keys[:, target.slot, :, :length] = source_pool.keys[:, source.slot, :, :length]
            target_pool.values[:, target.slot, :, :length] = source_pool.values[:, source.slot, :, :length]

    def grow(self, owner: OwnerT, length: int) -> None:
        """Move an owner whose slot is full to a larger one, with its `length` tokens."""
        old = self.pool_of(owner)
        old_slot = owner.slot
        capacity = capacity_for(length + 1)
        if capacity not in self._pools:
            self._pools[capacity] = SlotPool(self.shape, capacity)
        new = self._pools[capacity]
        new.add(owner)
        new.keys[:, owner.slot, :, :length] = old.keys[:, old_slot, :, :length]
        new.values[:, owner.slot, :, :length] = old.values[:, old_slot, :, :length]
        new_slot = owner.slot
        owner.slot, owner.capacity = old_slot, old.capacity
        old.remove(owner)
        owner.slot, owner.capacity = new_slot, capacity
        if not old.owners:
            del self._pools[old.capacity]
        self.tokens_held += capacity - old.capacity
        self.generation += 1
