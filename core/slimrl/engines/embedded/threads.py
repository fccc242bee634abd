"""How many threads compute: one, where more gain nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIALS = 6
"""Steps that are timed with one thread and with all, by turns."""
_GAIN = 1.5
"""How much faster all threads must be to be worth their CPU time, which the trainer or a second engine could use."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on this thread alone: for what is over sooner than others wake up (50 us against 5 for a small product).

    Costs less than a microsecond; the number of threads is this thread's own setting in OpenMP and MKL.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


class ThreadChoice:
    """One thread or all for steps of few rows, whichever the first steps show to be right on this machine.

    A step of one row reads every weight once for two operations each: it is as fast as memory is, and on some
    machines one core alone takes all that memory gives.
    """

    def __init__(self) -> None:
        self._trial = 0
        self._best_s = {True: float("inf"), False: float("inf")}
        """By whether one thread was used."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Compute one step."""
        if torch.get_num_threads() == 1:
            yield
            return
        is_trial = self._trial < 2 * _TRIALS
        on_one = self._trial % 2 == 0 if is_trial else self._best_s[True] < self._best_s[False] * _GAIN
        started_s = time.perf_counter()
        if on_one:
            with one_thread():
                yield
        else:
            yield
        if is_trial:
            self._trial += 1
            self._best_s[on_one] = min(self._best_s[on_one], time.perf_counter() - started_s)
