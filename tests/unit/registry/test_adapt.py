from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import Any

import pytest

from slimrl import Group, Sample, Score
from slimrl.config import GrpoConfig, RolloutConfig
from slimrl.errors import PluginError
from slimrl.registry import Options
from slimrl.registry.adapt import adapt

OPTIONS = Options([RolloutConfig(reward_key="acc"), GrpoConfig()])


def sample(value: float | None = None) -> Sample:
    made = Sample(3, 25, 25, "prompt", [1, 2], label="7", response="7", tokens=[3, 4, 5])
    made.score = None if value is None else Score.scored(value)
    return made


def bound(function: Any, kind: str = "reward") -> Any:
    return adapt(kind, function, "ref").bind(OPTIONS)


def shape(function: Any, kind: str = "reward") -> str:
    return adapt(kind, function, "ref").shape


def problem(function: Any, kind: str = "reward") -> str:
    with pytest.raises(PluginError) as caught:
        adapt(kind, function, "ref")
    return str(caught.value)


class WithCall:
    async def __call__(self, sample: Sample) -> float:
        return 1.0


def test_our_shape_is_used_as_it_is() -> None:
    def score(sample: Sample, tolerance: float = 0.1) -> float:
        return tolerance

    assert shape(score) == "ours"
    assert bound(score) is score


def test_slimes_reward_sees_flat_args_and_slimes_attribute_names() -> None:
    def score(args: Any, sample: Any, **kwargs: Any) -> tuple[Any, ...]:
        return (args.reward_key, args.eps_clip, sample.tokens, sample.response_length, sample.index, sample.label)

    assert shape(score) == "slime"
    assert bound(score)(sample()) == ("acc", 0.2, [1, 2, 3, 4, 5], 3, 25, "7")


def test_an_async_slime_reward_stays_async() -> None:
    async def score(args: Any, sample: Any) -> int:
        return int(sample.response)

    adapted = adapt("reward", score, "ref")
    assert adapted.is_async
    assert asyncio.run(adapted.bind(OPTIONS)(sample())) == 7


def test_an_argument_slimrl_does_not_have_is_named() -> None:
    def score(args: Any, sample: Any) -> Any:
        return args.not_a_flag

    with pytest.raises(AttributeError, match="not_a_flag: slimrl has no configuration field"):
        bound(score)(sample())


def test_slimes_args_cannot_be_set() -> None:
    def score(args: Any, sample: Any) -> None:
        args.reward_key = "other"

    with pytest.raises(AttributeError, match="frozen"):
        bound(score)(sample())


@dataclass
class Output:
    keep: bool
    reason: str | None = None


@pytest.mark.parametrize("result", [False, Output(False, "too_easy")])
def test_slimes_dynamic_filter_sees_the_scored_samples(result: Any) -> None:
    seen: list[Any] = []

    def keep(args: Any, samples: Any, **kwargs: Any) -> Any:
        seen.extend(s.get_reward_value(args) for s in samples)
        return result

    verdict = bound(keep, "dynamic_filter")(Group(0, [sample(1.0), sample(None), sample(0.5)]))
    assert seen == [1.0, 0.5]
    assert not verdict.keep
    assert verdict.reason == ("" if result is False else "too_easy")


@pytest.mark.parametrize(
    ("function", "is_async"),
    [(WithCall(), True), (functools.partial(WithCall(), tolerance=1), True), (lambda s: 1, False)],
)
def test_async_is_seen_in_calls_and_partials(function: Any, is_async: bool) -> None:
    assert adapt("reward", function, "ref").is_async is is_async


def test_a_wrong_number_of_parameters_names_both_shapes() -> None:
    said = problem(lambda prompt, response: 1)
    assert "takes (prompt, response); a reward takes (sample), or slime's (args, sample, **kwargs)" in said


@pytest.mark.parametrize(
    ("kind", "function", "said"),
    [
        ("reward", WithCall, "is a class"),
        ("reward", 3, "is int, not a function (sample)"),
        ("generator", lambda sample, sampling, engine: sample, "must be `async def`"),
        ("dynamic_filter", WithCall(), "make it `def`"),
        ("buffer_filter", lambda buffer: [], "a buffer filter takes (buffer, count), or slime's (args, rollout_id"),
        ("tracker", lambda step, metrics: None, "an object with log(step, metrics) and close()"),
    ],
)
def test_what_cannot_be_a_plugin_is_refused_at_resolution(kind: str, function: Any, said: str) -> None:
    assert said in problem(function, kind)
