"""Log-probs of tokens straight from hidden states, without keeping the logits of the whole vocabulary twice."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

KEPT_BYTES = 2**28
"""Probabilities up to this size stay for the backward pass; beyond it they are computed again, chunk by chunk."""
CHUNK_BYTES = 2**25
"""Logits computed at once."""


class TokenLogProbs(NamedTuple):
    """What a model says of the tokens that were sampled; natural log, both [tokens], float32."""

    log_probs: Tensor
    entropy: Tensor
    """Of the whole next-token distribution, in nats."""


def token_log_probs(
    hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor, *, temperature: float, entropy_has_grad: bool
) -> TokenLogProbs:
    """Log-prob and entropy of each token under softmax(hidden @ weight.T / temperature).

    `hidden` is [rows, hidden], `weight` [vocabulary, hidden]; `rows` and `targets` are [tokens]: which hidden state
    predicts a token, and its id. Many tokens may share a row. Differentiable in hidden and weight.
    """
    log_probs, entropy = _LogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, rows, targets, temperature, entropy_has_grad
    )
    return TokenLogProbs(log_probs, entropy[rows])


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        rows: Tensor,
        targets: Tensor,
        temperature: float,
        entropy_has_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        num_rows, vocabulary = hidden.size(0), weight.size(0)
        is_kept = any(ctx.needs_input_grad[:2]) and num_rows * vocabulary * 4 <= KEPT_BYTES
        kept = hidden.new_empty((num_rows, vocabulary), dtype=torch.float32) if is_kept else None
        picked = hidden.new_empty(rows.size(0), dtype=torch.float32)
        entropy = hidden.new_empty(num_rows, dtype=torch.float32)
        for low, high in _chunks(num_rows, vocabulary):
            log_p = _log_softmax(hidden[low:high], weight, temperature)
            inside = ((rows >= low) & (rows < high)).nonzero().squeeze(-1)
            picked[inside] = log_p[rows[inside] - low, targets[inside]]
            p = torch.exp(log_p, out=None if kept is None else kept[low:high])
            entropy[low:high] = -torch.linalg.vecdot(p, log_p)
        ctx.save_for_backward(hidden, weight, rows, targets, entropy)
        ctx.kept, ctx.temperature, ctx.entropy_has_grad = kept, temperature, entropy_has_grad
        if not entropy_has_grad:
            ctx.mark_non_differentiable(entropy)
        return picked, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        # d log p_t / d z_v = [v = t] - p_v and d H / d z_v = -p_v (log p_v + H)
        grad_log_probs, grad_entropy = grads
        hidden, weight, rows, targets, entropy = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        per_row = torch.zeros_like(entropy).index_add_(0, rows, grad_log_probs)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        for low, high in [(0, hidden.size(0))] if kept is not None else _chunks(*_extent(hidden, weight)):
            if kept is not None:
                grad = kept
            else:
                grad = _log_softmax(hidden[low:high], weight, ctx.temperature).exp_()
            if ctx.entropy_has_grad:
                log_p = grad.clamp(min=torch.finfo(grad.dtype).tiny).log_()
                factor = log_p.add_(entropy[low:high, None]).mul_(-grad_entropy[low:high, None])
                grad.mul_(factor.sub_(per_row[low:high, None]))
            else:
                grad.mul_(-per_row[low:high, None])
            inside = ((rows >= low) & (rows < high)).nonzero().squeeze(-1)
            grad.index_put_((rows[inside] - low, targets[inside]), grad_log_probs[inside], accumulate=True)
            scaled = grad.div_(ctx.temperature).to(hidden.dtype)
            torch.mm(scaled, weight, out=grad_hidden[low:high])
            grad_weight.addmm_(scaled.t(), hidden[low:high])
        return grad_hidden, grad_weight, None, None, None, None


def _extent(hidden: Tensor, weight: Tensor) -> tuple[int, int]:
    return hidden.size(0), weight.size(0)


def _chunks(num_rows: int, vocabulary: int) -> list[tuple[int, int]]:
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [(low, min(low + size, num_rows)) for low in range(0, num_rows, size)]


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = torch.mm(hidden, weight.t()).float()
    if temperature != 1.0:
        logits.div_(temperature)
    return logits.sub_(logits.logsumexp(-1, keepdim=True))
