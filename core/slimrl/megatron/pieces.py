"""What of a distributed checkpoint's tensors this process has: parts of them, and where in its memory they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from slimrl.megatron.model import PackedGpt


@dataclass(frozen=True)
class Piece:
    """A box of a stored tensor and this process's memory of it, which have the same axes."""

    key: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    offset: tuple[int, ...]
    """Where the box begins in it."""
    tensor: Tensor
    is_first: bool
    """Whether no process of another tensor or pipeline rank has the same box."""
    is_only: bool
    """Whether no data-parallel process before this one has it either."""
    fewest_rows: int | None = None
    """Rows that are stored at least, where those beyond the stored ones are padding, and zero (the vocabulary)."""

    def copied(self) -> Piece:
        """The same in CPU memory of its own."""
        return replace(self, tensor=self.tensor.detach().to("cpu", copy=True))


def weight_pieces(model: PackedGpt) -> dict[str, list[Piece]]:
    """The pieces of each of a model's parameters but its adapters, by its name in the model, in the order of rows.

    Keys and boxes are Megatron's: layers of one kind are one tensor with an axis for the layer.
    """
    pieces = {}
    for name, stored in _stored(model).items():
        if ".adapter." not in name and stored.data is not None:
            parts = stored.build() if hasattr(stored, "build") else [stored]
            pieces[name] = [_piece(part, model.num_words) for part in parts]
    return pieces


def object_keys(model: PackedGpt) -> list[str]:
    """Keys under which Megatron looks for what its layers keep for low precision; here they keep nothing."""
    return [
        stored.unique_key
        for stored in _stored(model).values()
        if stored.data is None and _is_zero(stored.replica_id) and hasattr(stored, "unique_key")
    ]


def beside(
    pieces: Sequence[Piece], numbers: Tensor, what: str, *, start: int = 0, is_shared: bool = False
) -> list[Piece]:
    """Pieces of numbers that belong to a parameter's elements, or to a run of them that begins at the element `start`.

    `is_shared`: each data-parallel process has a run of its own.
    """
    flat, end = numbers.detach().reshape(-1), start + numbers.numel()
    found = []
    first = 0
    for piece in pieces:
        size = piece.tensor.numel()
        low, high = max(start - first, 0), min(end - first, size)
        for run, shift, box in _boxes(tuple(piece.tensor.shape), low, high):
            found.append(
                replace(
                    piece,
                    key=f"{what}/{piece.key}",
                    offset=tuple(a + b for a, b in zip(piece.offset, shift, strict=True)),
                    tensor=flat[first + run.start - start : first + run.stop - start].view(box),
                    is_only=piece.is_first if is_shared else piece.is_only,
                )
            )
        first += size
    return found


def _boxes(shape: tuple[int, ...], low: int, high: int) -> Iterator[tuple[slice, tuple[int, ...], tuple[int, ...]]]:
    """The run of elements from `low` to before `high` as boxes: its elements, the box's beginning and its size.

    A run is a part of a row, whole rows, and a part of a row.
    """
    if low >= high:
        return
    columns = shape[-1]
    assert all(size == 1 for size in shape[:-2]), "weights are vectors and matrices, behind axes of size one"
    row, last = low // columns, high // columns
    done = low
    while done < high:
        column = done - row * columns
        num_rows = max(last - row, 1) if column == 0 else 1
        size = min(num_rows * columns - column, high - done)
        width = min(size, columns - column)
        ones = (1,) * max(len(shape) - 2, 0)
        zeros = (0,) * len(ones)
        box = (width,) if len(shape) == 1 else (*ones, num_rows, width)
        shift = (column,) if len(shape) == 1 else (*zeros, row, column)
        yield slice(done, done + size), shift, box
        done += size
        row += num_rows


def _stored(model: PackedGpt) -> dict[str, Any]:  # Any: Megatron has no types
    stored: dict[str, Any] = model.sharded_state_dict()
    return stored


def _piece(part: Any, num_words: int) -> Piece:
    replica = part.replica_id if isinstance(part.replica_id, tuple) else (part.replica_id, 0)
    return Piece(
        key=part.key,
        shape=tuple(part.global_shape),
        offset=tuple(part.global_offset),
        tensor=part.data.detach().view((1,) * part.prepend_axis_num + tuple(part.local_shape)),
        # the last number counts those that train other samples
        is_first=_is_zero(replica[:-1]),
        is_only=_is_zero(replica),
        fewest_rows=num_words if part.allow_shape_mismatch else None,
    )


def _is_zero(replica: Any) -> bool:
    return not any(replica) if isinstance(replica, tuple) else replica == 0


def num_elements(shape: Sequence[int]) -> int:
    """Elements of a box."""
    return int(torch.Size(shape).numel())
