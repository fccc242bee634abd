"""The next reply of a trajectory: how much of it the model may write, and under which seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from slimrl.types import SamplingParams

SEED_STRIDE: Final = 1_000_003
"""Between the seeds of a trajectory's replies: the samples of a group have seeds one apart."""


def next_reply(sampling: SamplingParams, *, turn: int, written: int, used: int) -> SamplingParams | None:
    """How reply number `turn`, from 0, is sampled; None where nothing is left of the budget or of the context.

    `written` are the tokens that the model has written in all replies, `used` those of the whole input.
    """
    left = sampling.max_new_tokens - written
    if sampling.max_context_len is not None:
        left = min(left, sampling.max_context_len - used)
    if left <= 0:
        return None
    seed = sampling.sampling_seed
    return replace(
        sampling,
        max_new_tokens=left,
        min_new_tokens=min(left, sampling.min_new_tokens),
        sampling_seed=None if seed is None else (seed + SEED_STRIDE * turn) % 2**31,
    )
