"""Log-probs of tokens that are given, not drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch

MAX_TOP = 128
"""Most likely tokens that a request may ask for at each position."""

_ROWS = 64
"""Positions whose logits are in memory at once."""


def score(
    hidden: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs [positions] of targets after hidden [positions, hidden], at temperature 1, and the likeliest tokens.

    The latter are log-probs and ids, [positions, MAX_TOP] each, all on the CPU.
    """
    chosen, top, ids = [], [], []
    for rows, wanted in zip(torch.split(hidden, _ROWS), torch.split(targets, _ROWS), strict=True):
        log_probs = torch.log_softmax(logits_of(rows), -1)
        chosen.append(log_probs.gather(1, wanted[:, None])[:, 0].cpu())
        best = log_probs.topk(min(MAX_TOP, log_probs.shape[1]), -1)
        top.append(best.values.cpu())
        ids.append(best.indices.cpu())
    return torch.cat(chosen), torch.cat(top), torch.cat(ids)
