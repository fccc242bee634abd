"""PERF_ARGS: how a batch is cut into micro-batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PerfConfig:
    """Batching of the trainer's forward and backward passes."""

    micro_batch_size: int | None = None
    """Samples per micro-batch without --use-dynamic-batch-size. Default: --n-samples-per-prompt, so that a prompt's samples share its forward."""
    use_dynamic_batch_size: bool = False
    """Fill micro-batches by tokens up to --max-tokens-per-gpu instead of by samples."""
    max_tokens_per_gpu: int | None = None
    """Tokens at most in one micro-batch with --use-dynamic-batch-size; one longer sample goes alone. Default: 8192."""
    log_probs_max_tokens_per_gpu: int | None = None
    """Tokens at most in one micro-batch of the passes that only compute log-probs: without gradients more fit. Default: as in training."""
    share_prefixes: bool = True
    """Compute what the samples of a micro-batch have in common (prompts, equal beginnings, duplicates) once; exact."""
