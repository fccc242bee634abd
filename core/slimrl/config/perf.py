"""PERF_ARGS: how a batch is cut into micro-batches, and the model spread over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PerfConfig:
    """Batching and parallelism of the trainer's forward and backward passes."""

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
    balance_data: bool = False
    """Give data-parallel processes equal shares of the tokens (differencing method of Karmarkar and Karp), not micro-batches in turn."""
    balance_by_flops: bool = False
    """With --balance-data: equal shares of the operations, which grow faster than a sample's tokens, instead of tokens."""
    tensor_model_parallel_size: int = 1
    """Processes of the trainer that share each matrix of the model."""
    sequence_parallel: bool = False
    """Tensor-parallel processes also share the tokens between the matrices: less memory, and needed where a model has experts."""
    pipeline_model_parallel_size: int = 1
    """Processes of the trainer that have other layers each; micro-batches go through them one after the other."""
    virtual_pipeline_model_parallel_size: int = 1
    """Parts that the layers of one pipeline stage are cut into, so that stages wait less for each other (interleaved schedule)."""
    context_parallel_size: int = 1
    """Processes of the trainer that share the tokens of a micro-batch, which may have so many times --max-tokens-per-gpu."""
    expert_model_parallel_size: int = 1
    """Processes of the trainer that have other experts each, of a model with experts."""
    expert_tensor_parallel_size: int | None = None
    """Processes of the trainer that share each matrix of an expert; 1: none do. Default: --tensor-model-parallel-size."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Compute again in the backward pass instead of keeping: whole layers, or attention alone. Less memory, more time."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With --recompute-granularity full: keep one input for each run of --recompute-num-layers layers (uniform), or recompute that many layers of each pipeline stage and no others (block)."""
    recompute_num_layers: int | None = None
    """With --recompute-granularity full: layers that are computed again together (uniform), or of each stage (block)."""
