"""Scores that are remembered, and calls that are shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from slimrl import Group, Sample, Score
from slimrl.scoring.cache import ScoreCache

COUNTING = """
from slimrl import reward_traits
calls = 0
@reward_traits(pure=True)
def pure(sample):
    import time
    global calls
    calls += 1
    time.sleep(0.05)
    if sample.response == "raise": raise ValueError("odd")
    return calls
@reward_traits(pure=True, inline=True)
def inline(sample):
    global calls
    calls += 1
    return calls
def impure(sample):
    global calls
    calls += 1
    return calls
"""


def values(scorer: Any, *groups: Sequence[Sample]) -> tuple[list[list[float | None]], int]:
    """Group after group; the samples of one are scored together."""

    async def go() -> int:
        async with scorer:
            for samples in groups:
                await scorer.score(Group(0, list(samples)))
            return int(scorer.cache_hits)

    hits = asyncio.run(go())
    return [[sample.value for sample in samples] for samples in groups], hits


@pytest.mark.parametrize("name", ["pure", "inline"])
def test_the_same_text_is_scored_once_also_while_it_is_being_scored(
    name: str, scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    groups = [[make_sample("a"), make_sample("a"), make_sample("b")], [make_sample("b"), make_sample("a")]]
    found, hits = values(scorer_of(COUNTING, {name: 1.0}), *groups)
    (first, again, other), (others_again, once_more) = found
    # not which call it was: a slow machine has an inline reward go on in a worker, which counts for itself
    assert first == again == once_more
    assert other == others_again
    assert hits == 3


@pytest.mark.parametrize("change", [{"label": 1}, {"label": "1"}, {"label": True}, {"metadata": {"level": 2}}])
def test_another_label_or_metadata_is_another_text(
    change: dict[str, Any], scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    found, hits = values(scorer_of(COUNTING, {"inline": 1.0}), [make_sample("a"), make_sample("a", **change)])
    assert found == [[1, 2]]
    assert hits == 0


def test_a_reward_that_does_not_say_it_is_pure_is_always_called(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    found, _ = values(scorer_of(COUNTING, {"impure": 1.0}), [make_sample("a")], [make_sample("a")])
    assert found == [[1], [2]]


def test_trouble_is_not_remembered(scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]) -> None:
    scorer = scorer_of(COUNTING, {"pure": 1.0})
    found, hits = values(scorer, [make_sample("raise")], [make_sample("raise")], [make_sample("b")])
    assert found == [[None], [None], [3]]
    assert hits == 0


def test_without_a_cache_every_sample_is_scored(
    scorer_of: Callable[..., Any], make_sample: Callable[..., Sample]
) -> None:
    found, _ = values(scorer_of(COUNTING, {"pure": 1.0}, cache_size=0), [make_sample("a"), make_sample("a")])
    assert sorted(found[0]) == [1, 2]


def test_what_was_asked_for_least_recently_is_forgotten_first(make_sample: Callable[..., Sample]) -> None:
    cache = ScoreCache(2)
    keys = [cache.key(0, (), make_sample(text)) for text in "abc"]
    a, b, c = (key for key in keys if key is not None)
    cache.put(a, Score.scored(1))
    cache.put(b, Score.scored(2))
    assert cache.get(a)
    cache.put(c, Score.scored(3))
    assert cache.get(b) is None
    assert cache.get(a)


def test_a_sample_that_cannot_be_compared_has_no_key(make_sample: Callable[..., Sample]) -> None:
    assert ScoreCache(2).key(0, (), make_sample("a", metadata={"call": lambda: None})) is None
