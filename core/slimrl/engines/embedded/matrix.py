"""A weight matrix kept in the layout that this machine multiplies fastest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

_PACK_FOR_ROWS = 64
"""oneDNN asks for how many rows to pack; what it chooses for 64 is as good as any for 1 to 1,024."""


class Matrix:
    """Weights [out, in] of one product, stored once: the parts that one input meets lie below each other.

    On a CPU in float32 they are packed by oneDNN at their first use after a change: a third less time at 8 to 64 rows
    than rows of memory, as measured on AVX2, and never more. Packing costs about as much as one product of 64 rows.
    """

    def __init__(
        self,
        part_sizes: Sequence[int],
        num_inputs: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        keep_dense: bool = False,
    ) -> None:
        self.num_inputs = num_inputs
        self._bounds = [0]
        for size in part_sizes:
            self._bounds.append(self._bounds[-1] + size)
        self._dtype = dtype
        self._device = device
        self._keep_dense = keep_dense
        """The rows are also looked up (a tied embedding), so they stay beside the packed form."""
        self._can_pack = _can_pack(dtype, device)
        self._packed: torch.Tensor | None = None
        self._dense: torch.Tensor | None = None
        self._unwritten: set[int] = set()
        """Parts of `_dense` that only `_packed` has."""

    @property
    def dense(self) -> torch.Tensor:
        """[out, in]; a copy unless the matrix keeps it."""
        if self._dense is not None and not self._unwritten:
            return self._dense
        assert self._packed is not None  # all parts are written before the first use
        whole: torch.Tensor = self._packed.to_dense()
        if self._dense is not None:
            for part in set(range(len(self._bounds) - 1)) - self._unwritten:
                whole[self._rows(part)] = self._dense[self._rows(part)]
        return whole

    def part_shape(self, part: int) -> tuple[int, int]:
        """[out, in] of one part."""
        return self._bounds[part + 1] - self._bounds[part], self.num_inputs

    def read(self, part: int) -> torch.Tensor:
        """One part, [out, in]."""
        return self.dense[self._rows(part)]

    def write(self, part: int, tensor: torch.Tensor) -> None:
        """Replace one part."""
        if self._dense is None:
            size = (self._bounds[-1], self.num_inputs)
            self._dense = torch.empty(size, dtype=self._dtype, device=self._device)
            self._unwritten = set(range(len(self._bounds) - 1))
        self._dense[self._rows(part)].copy_(tensor)
        self._unwritten.discard(part)
        if not self._unwritten:
            self._packed = None

    def multiply(self, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`rows @ weights.T + bias`, [rows, out]."""
        if not self._can_pack:
            return F.linear(rows, self.dense, bias)
        if self._packed is None or self._unwritten:
            dense = self.dense
            self._packed = torch.ops.mkldnn._reorder_linear_weight(dense, _PACK_FOR_ROWS)
            self._unwritten = set()
            self._dense = dense if self._keep_dense else None
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, bias, "none", [], "")
        return product

    def multiply_exactly(self, rows: torch.Tensor) -> torch.Tensor:
        """`rows @ weights.T` in float32, which a GPU gives of bfloat16 without rounding in between."""
        if rows.is_cuda and rows.dtype is torch.bfloat16:
            return torch.mm(rows, self.dense.t(), out_dtype=torch.float32)
        return self.multiply(rows, None).float()

    def _rows(self, part: int) -> slice:
        return slice(self._bounds[part], self._bounds[part + 1])


def _can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    return (
        device.type == "cpu"
        and dtype is torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch has no types here
        # what torch.compile uses on a CPU; not a public name, so a torch without it computes the plain way
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
