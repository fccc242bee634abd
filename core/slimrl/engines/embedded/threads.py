"""Small operations on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
