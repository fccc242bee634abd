"""How the next reply of a trajectory is sampled."""

from __future__ import annotations

import pytest

from slimrl import SamplingParams, next_reply


@pytest.mark.parametrize(
    ("context", "written", "used", "left"),
    [(None, 0, 500, 10), (None, 7, 500, 3), (None, 10, 500, None), (20, 0, 12, 8), (20, 6, 12, 4), (20, 0, 20, None)],
)
def test_what_is_left_is_the_smaller_of_budget_and_context(
    context: int | None, written: int, used: int, left: int | None
) -> None:
    found = next_reply(SamplingParams(10, max_context_len=context), turn=1, written=written, used=used)
    assert (None if found is None else found.max_new_tokens) == left


def test_fewer_tokens_than_are_left_are_demanded() -> None:
    found = next_reply(SamplingParams(10, min_new_tokens=5), turn=0, written=8, used=0)
    assert found is not None
    assert found.min_new_tokens == 2


def test_every_turn_has_its_own_seed_and_the_first_has_the_samples() -> None:
    def seeds(seed: int | None) -> list[int | None]:
        found = [next_reply(SamplingParams(10, sampling_seed=seed), turn=turn, written=0, used=0) for turn in range(50)]
        return [one.sampling_seed for one in found if one is not None]

    assert seeds(7)[0] == 7
    assert len(set(seeds(7) + seeds(8) + seeds(2**31 - 1))) == 150
    assert set(seeds(None)) == {None}
