"""What one forward and backward pass works on, built from a rollout's batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimrl.algorithms.prefix_trie import build_trie
from slimrl.algorithms.segments import Segment, attention_segments, block_segments
from slimrl.errors import TrainError
from slimrl.megatron.attention import packed_segments, split_segments
from slimrl.megatron.model import PackedTokens
from slimrl.megatron.parallel import Parallel
from slimrl.megatron.token_split import split_tokens
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
    """[trained] which of the pass's hidden states predicts the token; of the `own` tokens, where there are such."""
    targets: Tensor
    """[trained]"""
    places: Tensor
    """[trained] where the token is in the batch's response tokens."""
    lengths: Tensor
    """[samples] trained tokens of each sample."""
    num_nodes: int
    """Tokens that are computed, by all processes that share the pass."""
    num_sample_tokens: int
    """Tokens the samples have in all, before what they share was merged."""
    own: Tensor | None = None
    """[own trained] the trained tokens that this process predicts, where processes share the pass."""

    def __len__(self) -> int:
        return self.targets.size(0)


@dataclass(frozen=True)
class MicroBatch:
    """A pack and what the loss reads of its trained tokens."""

    pack: Pack
    tokens: TokenArrays

    def __len__(self) -> int:
        return len(self.pack)


def build_pack(
    samples: Sequence[TrainedSample], parallel: Parallel, *, share_prefixes: bool, device: torch.device
) -> Pack:
    """Merge samples into one pass; without samples it is a pass over a token that nothing is made of.

    Where processes share its tokens, this is what this one computes of it.
    """
    if samples:
        trie = build_trie([sample.inputs for sample in samples], share=share_prefixes)
        tokens, positions = trie.tokens, trie.positions
        # a GPU has a kernel for all segments at once; processes that share tokens cut segments, and need masks for it
        is_at_once = device.type == "cuda" and parallel.context_group is None
        segments = block_segments(trie) if is_at_once else attention_segments(trie)
        of_sample = [path[sample.predictors] for path, sample in zip(trie.paths, samples, strict=True)]
        nodes = np.concatenate(of_sample)
    else:
        tokens = positions = nodes = np.zeros(0, dtype=np.int64)
        segments = []
    num_nodes = len(tokens)
    missing = -num_nodes % parallel.layout.token_multiple if samples else parallel.layout.token_multiple
    if missing:
        tokens, positions = (np.pad(array, (0, missing)) for array in (tokens, positions))
        segments = [*segments, Segment(num_nodes, num_nodes + missing, np.zeros(0, dtype=np.int64), None)]
    own = None
    if parallel.context_group is None:
        packed = packed_segments(segments, device)
        predictors, rows = np.unique(nodes, return_inverse=True)
    else:
        split, rank = split_tokens(len(tokens), parallel.layout.context_size), parallel.context_rank
        packed = split_segments(segments, split, rank, parallel.context_group, device)
        tokens, positions = tokens[split.nodes[rank]], positions[split.nodes[rank]]
        own = np.flatnonzero(split.process_of(nodes) == rank)
        predictors, rows = np.unique(np.searchsorted(split.nodes[rank], nodes[own]), return_inverse=True)
    targets = _joined([sample.targets for sample in samples])
    places = _joined([sample.places for sample in samples])
    return Pack(
        packed=PackedTokens(
            tokens=torch.from_numpy(tokens).to(device),
            positions=torch.from_numpy(positions).to(device),
            segments=packed,
            predictors=torch.from_numpy(predictors).to(device),
        ),
        rows=torch.from_numpy(rows).to(device),
        targets=torch.from_numpy(targets).to(device),
        places=torch.from_numpy(places).to(device),
        lengths=torch.tensor([len(sample.targets) for sample in samples], device=device),
        num_nodes=num_nodes,
        num_sample_tokens=sum(len(sample.inputs) for sample in samples),
        own=None if own is None else torch.from_numpy(own).to(device),
    )


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate(arrays).astype(np.int64) if arrays else np.zeros(0, dtype=np.int64)
