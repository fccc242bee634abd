"""The loss of supervised fine-tuning, per token."""

from __future__ import annotations

from torch import Tensor


def sft_loss(log_probs: Tensor) -> Tensor:
    """The negative log-likelihood of every trained token; both [tokens].

    `log_probs` are those of the model itself: its logits are not divided by the sampling temperature. Summed with
    `token_weights` it is the mean over tokens, or over samples of their tokens' means.
    """
    return -log_probs
