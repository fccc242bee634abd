"""Per-token values of samples packed one after another, and what belongs to a sample as a whole."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_means(values: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each sample's tokens, 0 for a sample without any; differentiable.

    `values` is [tokens], sample after sample; `lengths` is int64 [samples], its sum is the number of tokens; the
    result is [samples]. Sums are made in float64.
    """
    samples = torch.arange(len(lengths), device=values.device)
    sample_of_token = samples.repeat_interleave(lengths, output_size=len(values))
    sums = torch.zeros(len(lengths), dtype=torch.float64, device=values.device)
    sums = sums.index_add(0, sample_of_token, values.to(torch.float64))
    return (sums / lengths.clamp(min=1)).to(values.dtype)


def spread(per_sample: Tensor, lengths: Tensor, num_tokens: int) -> Tensor:
    """Every sample's value at each of its tokens: [samples] to [tokens]; differentiable."""
    return per_sample.repeat_interleave(lengths, output_size=num_tokens)
