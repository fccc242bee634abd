"""Log-probs on a GPU: each piece of the logits is written once and read by two kernels, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slimrl.megatron.fused import logit_grads, row_sums
from slimrl.megatron.logits import add_picked, add_product, chunks, gradient_sum, product


class GpuLogProbs(torch.autograd.Function):
    """Log-prob of each token and entropy of each row; nothing of the vocabulary's size is kept for the backward pass.

    d log p_t / d z_v = [v = t] - p_v and d H / d z_v = -p_v (log p_v + H). The first part is a few rows of the
    weight, so it is added apart.
    """

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
        log_sums = hidden.new_empty(hidden.size(0), dtype=torch.float32)
        entropy = torch.empty_like(log_sums)
        for low, high in chunks(hidden.size(0), weight):
            logits = product(hidden[low:high], weight.t())
            log_sums[low:high], entropy[low:high] = row_sums(logits, temperature)
        ctx.save_for_backward(hidden, weight, rows, targets, entropy, log_sums)
        ctx.temperature, ctx.entropy_has_grad = temperature, entropy_has_grad
        if not entropy_has_grad:
            ctx.mark_non_differentiable(entropy)
        picked = torch.linalg.vecdot(hidden[rows].float(), weight[targets].float())
        return picked / temperature - log_sums[rows], entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        hidden, weight, rows, targets, entropy, log_sums = ctx.saved_tensors
        grad_picked = grads[0] / ctx.temperature
        per_row = torch.zeros_like(entropy).index_add_(0, rows, grad_picked)
        grad_entropy = grads[1] / ctx.temperature if ctx.entropy_has_grad else torch.zeros_like(entropy)
        grad_weight, returned = gradient_sum(weight) if ctx.needs_input_grad[1] else (None, None)
        grad_hidden = torch.empty_like(hidden)
        for low, high in chunks(hidden.size(0), weight):
            logits = product(hidden[low:high], weight.t())
            part = slice(low, high)
            of_rows = (log_sums[part], entropy[part], per_row[part], grad_entropy[part])
            found = logit_grads(logits, ctx.temperature, *of_rows, hidden.dtype)
            torch.mm(found, weight, out=grad_hidden[part])
            if grad_weight is not None:
                add_product(grad_weight, found.t(), hidden[part])
        add_picked(grad_hidden, grad_weight, hidden, weight, rows, targets, grad_picked)
        return grad_hidden, returned, None, None, None, None
