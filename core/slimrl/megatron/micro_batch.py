"""What one forward and backward pass works on, built from a rollout's batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimrl.algorithms.prefix_trie import build_trie
from slimrl.algorithms.segments import attention_segments
from slimrl.errors import TrainError
from slimrl.megatron.attention import packed_segments
from slimrl.megatron.model import PackedTokens
from slimrl.types import TrainBatch


@dataclass(frozen=True)
class TrainedSample:
    """The part of a sample that the loss needs."""

    inputs: NDArray[np.int32]
    """[inputs] prompt and response up to the token before the last trained one."""
    predictors: NDArray[np.int64]
    """[trained] positions in `inputs` whose next token is trained on."""
    targets: NDArray[np.int32]
    """[trained] the tokens that are trained on."""
    places: NDArray[np.int64]
    """[trained] where they are in the batch's response tokens."""


def trained_samples(batch: TrainBatch) -> list[TrainedSample]:
    """Every sample's share of a batch, in its order; a sample whose mask is all zero has no tokens.

    Raises TrainError for an empty prompt: nothing would predict the first token of its response.
    """
    if (batch.prompt_lengths < 1).any():
        sample = int(batch.sample_ids[batch.prompt_lengths < 1][0])
        raise TrainError(f"step {batch.step}: sample {sample} has an empty prompt; give it at least one token")
    lengths = batch.prompt_lengths.astype(np.int64) + batch.response_lengths
    starts = np.concatenate(([0], lengths.cumsum()))
    response_starts = np.concatenate(([0], batch.response_lengths.astype(np.int64).cumsum()))
    samples = []
    for index, prompt_length in enumerate(batch.prompt_lengths.tolist()):
        tokens = batch.tokens[starts[index] : starts[index + 1]]
        trained = np.flatnonzero(batch.loss_mask[response_starts[index] : response_starts[index + 1]])
        predictors = trained + (prompt_length - 1)
        num_inputs = int(predictors[-1]) + 1 if len(predictors) else 0
        samples.append(
            TrainedSample(tokens[:num_inputs], predictors, tokens[predictors + 1], trained + response_starts[index])
        )
    return samples


@dataclass(frozen=True)
class MicroBatch:
    """Samples that share a pass; every field but `packed` and `places` is [trained tokens], sample after sample."""

    packed: PackedTokens
    rows: Tensor
    """Which of the pass's hidden states predicts the token."""
    targets: Tensor
    advantages: Tensor
    weights: Tensor
    """Share of the token in the step's mean; see `token_weights`."""
    engine_log_probs: Tensor
    num_sample_tokens: int
    """Tokens the samples have in all, before what they share was merged."""

    def __len__(self) -> int:
        return self.targets.size(0)


def build_micro_batch(
    samples: Sequence[TrainedSample],
    *,
    advantages: NDArray[np.float32],
    weights: Sequence[Tensor],
    engine_log_probs: NDArray[np.float32],
    share_prefixes: bool,
    device: torch.device,
) -> MicroBatch:
    """Merge samples into one pass.

    `weights` has one tensor [trained] a sample; `advantages` and `engine_log_probs` are the whole batch's
    [response tokens].
    """
    trie = build_trie([sample.inputs for sample in samples], share=share_prefixes)
    nodes = np.concatenate([path[sample.predictors] for path, sample in zip(trie.paths, samples, strict=True)])
    predictors, rows = np.unique(nodes, return_inverse=True)
    packed = PackedTokens(
        tokens=torch.from_numpy(trie.tokens).to(device),
        positions=torch.from_numpy(trie.positions).to(device),
        segments=packed_segments(attention_segments(trie), device),
        predictors=torch.from_numpy(predictors).to(device),
    )
    places = np.concatenate([sample.places for sample in samples])
    return MicroBatch(
        packed=packed,
        rows=torch.from_numpy(rows).to(device),
        targets=torch.from_numpy(np.concatenate([sample.targets for sample in samples]).astype(np.int64)).to(device),
        advantages=torch.from_numpy(advantages[places]).to(device),
        weights=torch.cat(tuple(weights)).to(device),
        engine_log_probs=torch.from_numpy(engine_log_probs[places]).to(device),
        num_sample_tokens=sum(len(sample.inputs) for sample in samples),
    )
