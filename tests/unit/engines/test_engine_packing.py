"""Shared beginnings are found, and computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from slimrl.engines.embedded.packing import PromptIndex, common_length
from slimrl.engines.embedded.runner import Prompt

CONTEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)


def _slow_common_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


@given(CONTEXTS, CONTEXTS)
def test_common_length_counts_equal_leading_tokens(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert common_length(one, other) == _slow_common_length(one, other)


@given(st.lists(CONTEXTS, unique=True), st.lists(st.integers(0, 30)), CONTEXTS)
def test_the_nearest_prompt_shares_most_of_all(
    contexts: list[tuple[int, ...]], gone: list[int], asked: tuple[int, ...]
) -> None:
    index = PromptIndex()
    prompts = [Prompt(context, None) for context in contexts]
    for prompt in prompts:
        index.add(prompt)
    for place in set(gone):
        if place < len(prompts):
            index.discard(prompts[place])
    left = [context for place, context in enumerate(contexts) if place not in gone]
    found, length = index.nearest(asked)
    assert length == max((_slow_common_length(asked, context) for context in left), default=0)
    assert found is None or _slow_common_length(asked, found.context) == length
    assert (found is None) == (length == 0)


def test_tokens_that_prompts_share_are_computed_once(tiny_llama: Path, open_engine: Any, some_prompt: Any) -> None:
    runner = open_engine(tiny_llama).runner
    forward, sizes = runner.model.forward, []

    def counting(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(tokens))
        return forward(tokens, *rest)

    runner.model.forward = counting
    system = some_prompt(0, 20)
    prompts = [runner.open((*system, 3 + branch, 9, 9), None) for branch in range(4)]
    assert len(runner.prefill()) == 4
    assert sizes == [20 + 4 * 3]
    assert sorted(prompt.num_cached for prompt in prompts) == [0, 20, 20, 20]
    # one that comes later copies from those that are there
    late = runner.open((*system, 99), None)
    assert runner.prefill() == [late]
    assert sizes[1:] == [1]


def test_a_prompt_shares_less_with_one_of_its_pass_than_that_one_has_stored(
    tiny_llama: Path, open_engine: Any, some_prompt: Any
) -> None:
    """The second turn of one conversation, whose first is still there, beside the second turn of another."""
    runner = open_engine(tiny_llama).runner
    system = some_prompt(0, 20)
    first = runner.open((*system, 3, 4, 5), None)
    runner.prefill()
    second = runner.open((*first.context, *some_prompt(1, 8)), None)
    other = runner.open((*system, 9, *some_prompt(2, 12)), None)
    assert runner.prefill() == [second, other]
    for prompt in (second, other):
        alone = open_engine(tiny_llama).runner
        expected = alone.open(prompt.context, None)
        alone.prefill()
        torch.testing.assert_close(prompt.logits, expected.logits)


def test_a_prompt_longer_than_a_chunk_takes_several_passes(
    tiny_llama: Path, open_engine: Any, some_prompt: Any
) -> None:
    runner = open_engine(tiny_llama, chunked_prefill_size=16).runner
    long_prompt = runner.open(tuple(some_prompt(0, 40)), None)
    short = runner.open(tuple(some_prompt(1, 5)), None)
    order = []
    while runner.has_pending_prefill():
        order.append({id(prompt) for prompt in runner.prefill()})
    assert len(order) == 3
    assert set().union(*order) == {id(long_prompt), id(short)}


def test_scored_positions_are_computed_even_if_another_prompt_has_them(
    tiny_llama: Path, open_engine: Any, some_prompt: Any, ask: Any
) -> None:
    engine = open_engine(tiny_llama)
    prompt = some_prompt(0, 20)
    alone = ask(prompt, score_from=0, max_new_tokens=0)
    engine.generate([alone])
    crowd = [ask(prompt, max_new_tokens=30), ask(prompt, score_from=0, max_new_tokens=0), ask(prompt, score_from=12)]
    engine.generate(crowd)
    assert len(crowd[1].input_log_probs) == 19
    for one, other in zip(crowd[1].input_log_probs, alone.input_log_probs, strict=True):
        assert abs(one - other) < 1e-5
    for one, other in zip(crowd[2].input_log_probs, alone.input_log_probs[11:], strict=True):
        assert abs(one - other) < 1e-5
