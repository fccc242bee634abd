"""Which parameters, and which share of each, one rank of a parallel layout has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrl.megatron.convert.family import rules_for
from slimrl.megatron.convert.rule import Rule, Split
from slimrl.megatron.shape import ModelShape


@dataclass(frozen=True)
class Place:
    """Where one rank's model, or one chunk of an interleaved pipeline, stands in the whole."""

    tensor_rank: int = 0
    tensor_size: int = 1
    expert_rank: int = 0
    expert_size: int = 1
    expert_tensor_rank: int = 0
    expert_tensor_size: int = 1
    layers: range | None = None
    """Layers of the whole model that it has; None: all."""
    has_embedding: bool = True
    has_output: bool = True


WHOLE = Place()


def pipeline_place(place: Place, shape: ModelShape, stage: int, num_stages: int) -> Place:
    """The place with the layers of one of `num_stages` equal pipeline stages; they must divide the layers."""
    per_stage = shape.num_layers // num_stages
    return replace(
        place,
        layers=range(stage * per_stage, (stage + 1) * per_stage),
        has_embedding=stage == 0,
        has_output=stage == num_stages - 1,
    )


def local_rules(shape: ModelShape, place: Place) -> Iterator[tuple[str, Rule]]:
    """The rules of what is at a place, each with the parameter's name there: layers and experts count from 0."""
    layers = place.layers or range(shape.num_layers)
    for rule in rules_for(shape):
        if rule.place == "embedding":
            if place.has_embedding:
                yield rule.megatron, rule
            elif place.has_output and shape.has_tied_embeddings:
                # a copy for the logits, which Megatron keeps equal to the first stage's
                yield "output_layer.weight", rule
        elif rule.place == "output":
            if place.has_output:
                yield rule.megatron, rule
        elif rule.layer in layers and _has_expert(rule, shape, place):
            yield local_name(rule, shape, place), rule


def take_share(whole: Tensor, rule: Rule, place: Place) -> Tensor:
    """What a rank has of a parameter; without a split, all of it."""
    rank, size = _rank_and_size(rule, place)
    split = rule.share
    if split is None or size == 1:
        return whole
    pieces = _pieces(whole, split, size)
    return torch.cat([piece.chunk(size, split.axis)[rank] for piece in pieces], split.axis)


def join_shares(shares: Sequence[Tensor], rule: Rule, shape: ModelShape) -> Tensor:
    """The parameter from the shares of all ranks in order, the inverse of `take_share`."""
    split = rule.share
    if split is None or len(shares) == 1:
        return shares[0]
    pieces = zip(*(share.chunk(split.parts, split.axis) for share in shares), strict=True)
    whole = torch.cat([torch.cat(piece, split.axis) for piece in pieces], split.axis)
    return whole[: shape.vocab_size] if split.is_padded else whole


def num_shares(rule: Rule, place: Place) -> int:
    """Ranks that share a parameter, each with a part of it."""
    return 1 if rule.share is None else _rank_and_size(rule, place)[1]


def padded_vocabulary(vocab_size: int, tensor_size: int) -> int:
    """Rows of the embedding with what is appended so that tensor-parallel ranks have equally many."""
    return -(-vocab_size // tensor_size) * tensor_size


def _rank_and_size(rule: Rule, place: Place) -> tuple[int, int]:
    if rule.expert is None:
        return place.tensor_rank, place.tensor_size
    return place.expert_tensor_rank, place.expert_tensor_size


def _pieces(whole: Tensor, split: Split, size: int) -> Sequence[Tensor]:
    if split.is_padded:
        missing = padded_vocabulary(whole.size(0), size) - whole.size(0)
        whole = F.pad(whole, (0, 0, 0, missing))
    return whole.chunk(split.parts, split.axis)


def _has_expert(rule: Rule, shape: ModelShape, place: Place) -> bool:
    return rule.expert is None or rule.expert // _experts_of_rank(shape, place) == place.expert_rank


def local_name(rule: Rule, shape: ModelShape, place: Place) -> str:
    """The name of a layer's parameter at a place, where layers and experts count from 0."""
    first_layer = place.layers.start if place.layers else 0
    name = rule.megatron.replace(f"layers.{rule.layer}.", f"layers.{(rule.layer or 0) - first_layer}.", 1)
    if rule.expert is None:
        return name
    return name.replace(f"experts.{rule.expert}.", f"experts.{rule.expert % _experts_of_rank(shape, place)}.", 1)


def _experts_of_rank(shape: ModelShape, place: Place) -> int:
    assert shape.moe is not None
    return shape.moe.num_experts // place.expert_size
