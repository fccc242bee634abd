"""What one forward and backward pass works on, built from a rollout's batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

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
class TokenArrays:
    """Numbers of tokens on the device, of one length: of all response tokens of a rollout, or of a pass's trained ones.

    None is what no setting asks for.
    """

    advantages: Tensor
    weights: Tensor
    """Share of the token in its step's mean; see `token_weights`."""
    engine_log_probs: Tensor
    old_log_probs: Tensor | None = None
    """Of the policy before the rollout's first optimizer step; None: the current ones."""
    ref_log_probs: Tensor | None = None

    def at(self, places: Tensor) -> Self:
        """The numbers of some of the tokens."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: array[places] for name, array in arrays.items() if array is not None})


@dataclass(frozen=True)
class Pack:
    """Samples that share a pass; a tensor with an entry a trained token has them sample after sample."""

    packed: PackedTokens
    rows: Tensor
    """[trained] which of the pass's hidden states predicts the token."""
    targets: Tensor
    """[trained]"""
    places: Tensor
    """[trained] where the token is in the batch's response tokens."""
    lengths: Tensor
    """[samples] trained tokens of each sample."""
    num_sample_tokens: int
    """Tokens the samples have in all, before what they share was merged."""

    def __len__(self) -> int:
        return self.targets.size(0)


@dataclass(frozen=True)
class MicroBatch:
    """A pack and what the loss reads of its trained tokens."""

    pack: Pack
    tokens: TokenArrays

    def __len__(self) -> int:
        return len(self.pack)


def build_pack(samples: Sequence[TrainedSample], *, share_prefixes: bool, device: torch.device) -> Pack:
    """Merge samples into one pass."""
    trie = build_trie([sample.inputs for sample in samples], share=share_prefixes)
    nodes = np.concatenate([path[sample.predictors] for path, sample in zip(trie.paths, samples, strict=True)])
    predictors, rows = np.unique(nodes, return_inverse=True)
    packed = PackedTokens(
        tokens=torch.from_numpy(trie.tokens).to(device),
        positions=torch.from_numpy(trie.positions).to(device),
        segments=packed_segments(attention_segments(trie), device),
        predictors=torch.from_numpy(predictors).to(device),
    )
    targets = np.concatenate([sample.targets for sample in samples]).astype(np.int64)
    places = np.concatenate([sample.places for sample in samples])
    return Pack(
        packed=packed,
        rows=torch.from_numpy(rows).to(device),
        targets=torch.from_numpy(targets).to(device),
        places=torch.from_numpy(places).to(device),
        lengths=torch.tensor([len(sample.targets) for sample in samples], device=device),
        num_sample_tokens=sum(len(sample.inputs) for sample in samples),
    )
