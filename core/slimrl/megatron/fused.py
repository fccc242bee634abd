"""Chains of elementwise operations as one kernel on a GPU; on a CPU they are the operations that they say."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Have torch compile a pure function of tensors, the first of which says where it runs; never differentiated.

    Where torch cannot compile (its kernels need a C compiler) the function runs as it is, with a warning.
    """
    compiled: Callable[P, R] | None = None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        first = args[0]
        if not (isinstance(first, torch.Tensor) and first.is_cuda):
            return function(*args, **kwargs)
        if compiled is None:
            compiled = _compiled(function, *args, **kwargs)
        return compiled(*args, **kwargs)

    return call


def _compiled(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[P, R]:
    """The compiled function, or the function itself where compiling it fails."""
    compiled: Callable[P, R] = torch.compile(function, fullgraph=True, dynamic=True)
    try:
        compiled(*args, **kwargs)
    except Exception as error:  # whatever compilers say
        reason = str(error).strip().splitlines()
        logger.warning("torch cannot compile %s, training is slower: %s", function.__name__, (reason or [error])[0])
        return function
    return compiled
