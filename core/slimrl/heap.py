"""Memory that the C library keeps for later, given back to the system."""

from __future__ import annotations

import ctypes


def return_free_pages() -> None:
    """Give unused pages of the heap back; nothing where the C library cannot (only glibc can).

    What passes through memory (new weights, activations) leaves holes that glibc keeps: hundreds of megabytes of a
    small model, in the engine while the trainer works and the other way round.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
