"""Core attention over packed tokens: torch's scaled dot product a segment, or its flash kernel for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from slimrl.algorithms.segments import Segment
from slimrl.megatron.rotary import Rotation
from slimrl.megatron.token_split import TokenSplit, own_segments


@dataclass
class PackedSegments(PackedSeqParams):  # type: ignore[misc]  # Megatron has no types
    """Megatron's packed-sequence parameters and who attends to whom.

    To Megatron all tokens are one sequence.
    """

    row_sizes: list[int] = field(default_factory=list)
    """[segments] query tokens of each segment; the segments are in token order."""
    key_sizes: list[int] = field(default_factory=list)
    """[segments] key tokens of each segment: context, then its own."""
    keys: Tensor | None = None
    """[sum of key_sizes] token of each key; None: each segment's keys are its own tokens."""
    masks: list[Tensor | None] = field(default_factory=list)
    """[segments] bool [rows, keys], or None for plainly causal."""
    sharing: Any = None
    """The group of processes among which the tokens are split; `keys` counts all their tokens, process by process."""
    rotation: Rotation | None = None
    """Of queries and keys, which the model sets; None where they come turned."""
    bounds: tuple[Tensor, Tensor] | None = None
    """[segments + 1] int32 each: where segments begin among query tokens and among keys; None where there are masks."""


def split_segments(
    segments: Sequence[Segment], split: TokenSplit, rank: int, group: Any, device: torch.device
) -> PackedSegments:
    """What one of the processes that share the tokens computes of the segments."""
    parts, places = own_segments(segments, split.nodes[rank]), split.places
    packed = packed_segments([part for part, _ in parts], device)
    keys = [places[keys] for _, keys in parts]
    packed.key_sizes = [len(one) for one in keys]
    packed.keys = torch.from_numpy(np.concatenate(keys)).to(device)
    packed.sharing = group
    num_tokens = split.nodes.shape[1]
    packed.cu_seqlens_q = packed.cu_seqlens_kv = torch.tensor([0, num_tokens], dtype=torch.int32)
    packed.max_seqlen_q = packed.max_seqlen_kv = num_tokens
    return packed


def packed_segments(segments: Sequence[Segment], device: torch.device) -> PackedSegments:
    """Segments as tensors on a device."""
    num_tokens = segments[-1].end
    keys = None
    row_sizes = [segment.end - segment.start for segment in segments]
    key_sizes = [len(segment.context) + rows for segment, rows in zip(segments, row_sizes, strict=True)]
    if any(len(segment.context) for segment in segments):
        own = (np.arange(segment.start, segment.end) for segment in segments)
        pieces = [np.concatenate((segment.context, rows)) for segment, rows in zip(segments, own, strict=True)]
        keys = torch.from_numpy(np.concatenate(pieces)).to(device)
    bounds = torch.tensor([0, num_tokens], dtype=torch.int32)
    return PackedSegments(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=num_tokens,
        max_seqlen_kv=num_tokens,
        row_sizes=row_sizes,
        key_sizes=key_sizes,
        keys=keys,
        masks=[None if segment.mask is None else torch.from_numpy(segment.mask).to(device) for segment in segments],
        bounds=(
            (_bounds(row_sizes, device), _bounds(key_sizes, device))
            if all(segment.mask is None for segment in segments)
            else None
        ),
    )


def _bounds(sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)).to(device)


class PackedAttention(MegatronModule):  # type: ignore[misc]  # Megatron has no types
    """Softmax attention for Megatron's self-attention layer, on any device torch runs on."""

    # Any: Megatron passes what its fused kernels need besides
    def __init__(self, config: Any, *args: Any, softmax_scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        *,
        packed_seq_params: PackedSegments,
        **kwargs: Any,
    ) -> Tensor:
        """[tokens, heads, channels] each, fewer heads for key and value; returns [tokens, heads * value channels]."""
        packed = packed_seq_params
        if packed.rotation is not None:
            query, key = packed.rotation(query), packed.rotation(key)
        if packed.sharing is not None:
            key, value = (
                gather_from_sequence_parallel_region(part.contiguous(), group=packed.sharing) for part in (key, value)
            )
        if packed.keys is not None:
            # One gather for all segments: its backward is one addition, not one a segment.
            key, value = key.index_select(0, packed.keys), value.index_select(0, packed.keys)
        if packed.bounds is not None and _has_flash(query, value):
            return _flash(query, key, value, packed, self.softmax_scale).flatten(1)
        runs = _runs(packed)
        queries = query.split_with_sizes([run.num_segments * run.num_rows for run in runs])
        key_sizes = [run.num_segments * run.num_keys for run in runs]
        keys, values = key.split_with_sizes(key_sizes), value.split_with_sizes(key_sizes)
        has_groups = query.size(1) != key.size(1)
        outputs = [
            F.scaled_dot_product_attention(
                q.view(run.num_segments, run.num_rows, *q.shape[1:]).transpose(1, 2),
                k.view(run.num_segments, run.num_keys, *k.shape[1:]).transpose(1, 2),
                v.view(run.num_segments, run.num_keys, *v.shape[1:]).transpose(1, 2),
                attn_mask=_behind_context(run.num_rows, run.num_keys, q.device) if run.mask is None else run.mask,
                is_causal=run.mask is None and run.num_rows == run.num_keys,
                scale=self.softmax_scale,
                enable_gqa=has_groups,
            )
            .transpose(1, 2)
            .flatten(0, 1)
            for q, k, v, run in zip(queries, keys, values, runs, strict=True)
        ]
        return (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).flatten(1)


@dataclass(frozen=True)
class _Run:
    """Segments that come one after the other and are of one size: one call attends in all of them."""

    num_segments: int
    num_rows: int
    num_keys: int
    mask: Tensor | None
    """Of a segment that has one: it is a run of its own."""


def _runs(packed: PackedSegments) -> list[_Run]:
    runs: list[_Run] = []
    for num_rows, num_keys, mask in zip(packed.row_sizes, packed.key_sizes, packed.masks, strict=True):
        last = runs[-1] if runs else None
        if last and mask is None is last.mask and (last.num_rows, last.num_keys) == (num_rows, num_keys):
            runs[-1] = replace(last, num_segments=last.num_segments + 1)
        else:
            runs.append(_Run(1, num_rows, num_keys, mask))
    return runs


def _behind_context(num_rows: int, num_keys: int, device: torch.device) -> Tensor | None:
    """Who sees whom where all see the keys that come before their own; None without such keys."""
    if num_rows == num_keys:
        return None
    return torch.ones(num_rows, num_keys, dtype=torch.bool, device=device).tril_(num_keys - num_rows)


def _has_flash(query: Tensor, value: Tensor) -> bool:
    channels = query.size(2)
    return query.is_cuda and query.element_size() == 2 and channels == value.size(2) <= 256 and channels % 8 == 0


def _flash(query: Tensor, key: Tensor, value: Tensor, packed: PackedSegments, scale: float | None) -> Tensor:
    """All segments in one call; the kernel's causal mask is aligned to the last key of each.

    torch.nn.attention.varlen is the public name of this operator, with other arguments in each version of torch.
    """
    assert packed.bounds is not None
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, *packed.bounds, max(packed.row_sizes), max(packed.key_sizes), 0.0, True, False, scale=scale
    )[0]
    return attended
