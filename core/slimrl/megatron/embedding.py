"""Token embeddings whose gradient touches only the rows that were used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slimrl.megatron.logits import gradient_sum
from slimrl.megatron.vocabulary import VocabularyShare


def embed_share(tokens: Tensor, weight: Tensor, share: VocabularyShare) -> Tensor:
    """As `embed` where `weight` has a share of the rows: the tokens of that share, zeros for the others."""
    rows, is_here = share.find(tokens)
    return embed(rows, weight) * is_here[:, None]


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of `weight` [vocabulary, hidden] for `tokens` [tokens]: [tokens, hidden]. Differentiable in weight."""
    embedded: Tensor = _Embed.apply(tokens, weight)  # type: ignore[no-untyped-call]
    return embedded


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return weight.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None]:
        tokens, weight = ctx.saved_tensors
        total, returned = gradient_sum(weight)
        total.index_add_(0, tokens, grads[0].to(total.dtype))
        return None, returned
