"""Attention over what samples share: cut for one call each and cut for one call in all, against a dense mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slimrl.algorithms.prefix_trie import PrefixTrie, build_trie
from slimrl.algorithms.segments import attention_segments, block_segments
from slimrl.megatron.compat import prepare_megatron

HEADS, GROUPS, CHANNELS = 4, 2, 8
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _megatron() -> None:
    prepare_megatron(CPU)


def inputs(trie: PrefixTrie) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(trie))
    return [torch.randn(len(trie), heads, CHANNELS, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, trie: PrefixTrie) -> torch.Tensor:
    mask = torch.from_numpy(trie.ancestor_mask())
    by_head = [part.transpose(0, 1)[None] for part in (query, key, value)]
    found = F.scaled_dot_product_attention(*by_head, attn_mask=mask, enable_gqa=True)
    return found[0].transpose(0, 1).flatten(1)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=6), st.booleans())
@example([[0, 1, 2], [2, 1, 0], [1, 1, 1], [0], [1, 2]], False)  # runs of one size are one call
@settings(max_examples=60)
def test_either_cut_attends_to_a_tokens_ancestors(sequences: list[list[int]], share: bool) -> None:
    from slimrl.megatron.attention import PackedAttention, packed_segments

    trie = build_trie([np.array(tokens, np.int32) for tokens in sequences], share=share)
    attention = PackedAttention(config=None)
    query, key, value = inputs(trie)
    expected = dense(query, key, value, trie)
    for segments in (attention_segments(trie), block_segments(trie)):
        packed = packed_segments(segments, CPU)
        found = attention(query, key, value, None, packed_seq_params=packed)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_one_call_in_all_needs_no_mask() -> None:
    from slimrl.megatron.attention import packed_segments

    trie = build_trie([np.array(tokens, np.int32) for tokens in ([1, 2, 3, 4], [1, 2, 5], [6])])
    packed = packed_segments(block_segments(trie), CPU)
    assert packed.masks == [None] * 3
    assert packed.bounds is not None
    assert [bounds.tolist() for bounds in packed.bounds] == [[0, 4, 5, 6], [0, 4, 7, 8]]
