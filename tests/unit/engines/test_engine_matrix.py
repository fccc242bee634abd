"""A matrix says the same whether it is packed, being replaced, or plain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimrl.engines.embedded.matrix import Matrix

SIZES = (3, 4, 2)
ACTIONS = st.lists(st.sampled_from(["write 0", "write 1", "write 2", "multiply", "read"]), max_size=12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep_dense", [True, False])
@given(ACTIONS)
def test_any_order_of_writes_and_products(dtype: torch.dtype, keep_dense: bool, actions: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = Matrix(SIZES, 5, dtype, torch.device("cpu"), keep_dense=keep_dense)
    parts = [torch.randn(size, 5, generator=generator).to(dtype) for size in SIZES]
    for part, tensor in enumerate(parts):
        matrix.write(part, tensor)
    for action in [*actions, "read", "multiply"]:
        if action.startswith("write"):
            part = int(action[-1])
            parts[part] = torch.randn(SIZES[part], 5, generator=generator).to(dtype)
            matrix.write(part, parts[part])
        elif action == "read":
            assert all(torch.equal(matrix.read(part), tensor) for part, tensor in enumerate(parts))
        else:
            rows = torch.randn(2, 5, generator=generator).to(dtype)
            bias = torch.randn(sum(SIZES), generator=generator).to(dtype)
            wanted = rows.float() @ torch.cat(parts).float().T + bias.float()
            assert torch.allclose(
                matrix.multiply(rows, bias).float(), wanted, atol=1e-5 if dtype == torch.float32 else 0.1
            )
    assert torch.equal(matrix.dense, torch.cat(parts))


def test_a_packed_matrix_is_stored_once() -> None:
    matrix = Matrix((8,), 4, torch.float32, torch.device("cpu"))
    matrix.write(0, torch.randn(8, 4))
    matrix.multiply(torch.randn(1, 4), None)
    assert (matrix._dense is None) == matrix._can_pack
