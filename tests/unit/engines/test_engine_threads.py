"""A lone row is computed by one thread where more gain nothing."""

from __future__ import annotations

import time

import pytest
import torch

from slimrl.engines.embedded.threads import ThreadChoice


@pytest.fixture(autouse=True)
def two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds_on_two", "chosen"), [(0.004, 1), (0.0001, 2)])
def test_all_threads_are_used_only_where_they_are_faster(seconds_on_two: float, chosen: int) -> None:
    choice = ThreadChoice()
    used = []
    for _ in range(20):
        with choice.step():
            used.append(torch.get_num_threads())
            time.sleep(0.004 if used[-1] == 1 else seconds_on_two)
    assert set(used[:2]) == {1, 2}
    assert used[-1] == chosen
    assert torch.get_num_threads() == 2


def test_a_step_that_fails_leaves_the_threads_as_they_were() -> None:
    choice = ThreadChoice()
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"), choice.step():
            raise ValueError("bad")
        assert torch.get_num_threads() == 2
