"""Log-probs of tokens straight from hidden states, without keeping the logits of the whole vocabulary twice."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from slimrl.megatron.logits import add_picked, add_product, chunks, gradient_sum, product
from slimrl.megatron.logprob_gpu import GpuLogProbs
from slimrl.megatron.vocabulary import VocabularyShare

KEPT_BYTES = 2**28
"""Probabilities up to this size stay for the backward pass; beyond it they are computed again, chunk by chunk."""


class TokenLogProbs(NamedTuple):
    """What a model says of the tokens that were sampled; natural log, both [tokens], float32."""

    log_probs: Tensor
    entropy: Tensor
    """Of the whole next-token distribution, in nats."""


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    entropy_has_grad: bool,
    share: VocabularyShare | None = None,
) -> TokenLogProbs:
    """Log-prob and entropy of each token under softmax(hidden @ weight.T / temperature).

    `hidden` is [rows, hidden], `weight` [vocabulary, hidden]; `rows` and `targets` are [tokens]: which hidden state
    predicts a token, and its id. Many tokens may share a row. Differentiable in hidden and weight.
    With a share of the vocabulary `weight` has its rows, and the gradient of hidden is that share's part.
    """
    if hidden.is_cuda and share is None:
        log_probs, entropy = GpuLogProbs.apply(  # type: ignore[no-untyped-call]
            hidden, weight, rows, targets, temperature, entropy_has_grad
        )
    else:
        log_probs, entropy = _LogProbs.apply(  # type: ignore[no-untyped-call]
            hidden, weight, rows, targets, temperature, entropy_has_grad, share
        )
    return TokenLogProbs(log_probs, entropy[rows])


class _LogProbs(torch.autograd.Function):
    # d log p_t / d z_v = [v = t] - p_v and d H / d z_v = -p_v (log p_v + H). The first part is a few rows of the
    # weight, so it is added apart and the exponentials go into the products as they are,
    # each row's factor on the smaller matrix.

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        rows: Tensor,
        targets: Tensor,
        temperature: float,
        entropy_has_grad: bool,
        share: VocabularyShare | None,
    ) -> tuple[Tensor, Tensor]:
        # processes that share the vocabulary cut it the same way, whichever has padding
        num_rows, vocabulary = hidden.size(0), weight.size(0)
        words = _without_padding(weight, share)
        is_kept = any(ctx.needs_input_grad[:2]) and num_rows * vocabulary * 4 <= KEPT_BYTES
        kept = hidden.new_empty((num_rows, words.size(0)), dtype=torch.float32) if is_kept else None
        picked = hidden.new_empty(rows.size(0), dtype=torch.float32)
        entropy = hidden.new_empty(num_rows, dtype=torch.float32)
        log_sums = hidden.new_empty(num_rows, dtype=torch.float32)
        scratch: Tensor | None = None
        for low, high in chunks(num_rows, weight):
            scratch = logits = _logits(hidden[low:high], words, temperature, scratch, share)
            inside = ((rows >= low) & (rows < high)).nonzero().squeeze(-1)
            exps = torch.exp(logits, out=None if kept is None else kept[low:high])
            log_sum = log_sums[low:high] = _total(exps.sum(-1), share).log_()
            picked[inside] = _pick(logits, rows[inside] - low, targets[inside], share) - log_sum[rows[inside] - low]
            entropy[low:high] = log_sum - _total(logits.mul_(exps).sum(-1), share) / log_sum.exp()
        ctx.save_for_backward(hidden, weight, rows, targets, entropy, log_sums)
        ctx.kept, ctx.temperature, ctx.entropy_has_grad = kept, temperature, entropy_has_grad
        ctx.share = share
        if not entropy_has_grad:
            ctx.mark_non_differentiable(entropy)
        return picked, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None, None]:
        hidden, weight, rows, targets, entropy, log_sums = ctx.saved_tensors
        kept, ctx.kept, share = ctx.kept, None, ctx.share
        words = _without_padding(weight, share)
        grad_picked = grads[0] / ctx.temperature
        per_row = torch.zeros_like(entropy).index_add_(0, rows, grad_picked)
        grad_weight, returned = gradient_sum(weight) if ctx.needs_input_grad[1] else (None, None)
        grad_words = None if grad_weight is None else _without_padding(grad_weight, share)
        grad_hidden = torch.empty_like(hidden)
        whole = [(0, hidden.size(0))]
        for low, high in whole if kept is not None else chunks(hidden.size(0), weight):
            exps = kept if kept is not None else _logits(hidden[low:high], words, ctx.temperature, share=share).exp_()
            scale = -per_row[low:high, None]
            if ctx.entropy_has_grad:
                log_p = exps.clamp(min=torch.finfo(exps.dtype).tiny).log_().sub_(log_sums[low:high, None])
                factor = log_p.add_(entropy[low:high, None]).mul_(-grads[1][low:high, None] / ctx.temperature)
                exps = factor.add_(scale).mul_(exps)
                scale = torch.ones_like(scale)
            scale = scale / log_sums[low:high, None].exp()
            p = exps.to(hidden.dtype)
            torch.mm(p, words, out=grad_hidden[low:high])
            grad_hidden[low:high].mul_(scale)
            if grad_words is not None:
                add_product(grad_words, p.t(), (hidden[low:high] * scale).to(hidden.dtype))
        if share is not None:
            targets, is_here = share.find(targets)
            grad_picked = grad_picked * is_here
        add_picked(grad_hidden, grad_weight, hidden, weight, rows, targets, grad_picked)
        return grad_hidden, returned, None, None, None, None, None


def _without_padding(weight: Tensor, share: VocabularyShare | None) -> Tensor:
    return weight if share is None else weight[: share.end - share.start]


def _total(sums: Tensor, share: VocabularyShare | None) -> Tensor:
    return sums if share is None else share.sum(sums)


def _pick(logits: Tensor, rows: Tensor, targets: Tensor, share: VocabularyShare | None) -> Tensor:
    if share is None:
        return logits[rows, targets]
    places, is_here = share.find(targets)
    return share.sum(logits[rows, places] * is_here)


def _logits(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    scratch: Tensor | None = None,
    share: VocabularyShare | None = None,
) -> Tensor:
    """Logits less each row's largest, in float32; written to the beginning of `scratch` where it can be."""
    if scratch is not None and weight.dtype is torch.float32:
        # memory that was used before costs a tenth of memory fresh from the system
        logits = torch.mm(hidden, weight.t(), out=scratch[: hidden.size(0)])
    else:
        logits = product(hidden, weight.t())
    if temperature != 1.0:
        logits.div_(temperature)
    largest = logits.amax(-1, keepdim=True)
    return logits.sub_(largest if share is None else share.largest(largest))
