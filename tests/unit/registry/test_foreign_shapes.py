"""Reward functions written for other trainers, called as those trainers call them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slimrl import RewardError, Sample, reward_traits
from slimrl.errors import PluginError
from slimrl.registry import Options
from slimrl.registry.adapt import adapt
from slimrl.traits import traits_of

MESSAGES = [{"role": "user", "content": "3 + 4?"}]


def sample(response: str = "7", label: Any = "7", prompt: Any = "3 + 4?", **metadata: Any) -> Sample:
    return Sample(0, 0, 0, prompt, [1, 2], label=label, metadata=metadata, response=response, tokens=[3, 4])


def bound(function: Any, *, group: bool = False) -> Any:
    return adapt("reward", function, "ref", group=group).bind(Options())


def shape(function: Any, *, group: bool = False) -> str:
    return adapt("reward", function, "ref", group=group).shape


def problem(function: Any, *, group: bool = False) -> str:
    with pytest.raises(PluginError) as caught:
        adapt("reward", function, "ref", group=group)
    return str(caught.value)


def exact(completions: list[str], ground_truth: list[str], **kwargs: Any) -> list[float]:
    return [float(c == t) for c, t in zip(completions, ground_truth, strict=True)]


def test_trls_function_gets_lists_of_one_and_its_entry_is_the_reward() -> None:
    assert shape(exact) == "trl"
    assert bound(exact)(sample()) == 1.0
    assert bound(exact)(sample("8")) == 0.0


def test_trls_function_of_a_group_gets_the_whole_groups_lists() -> None:
    seen: list[Any] = []

    def score(prompts: Any, completions: Any, completion_ids: Any, difficulty: Any, **kwargs: Any) -> list[Any]:
        seen.append((prompts, completions, completion_ids, difficulty, kwargs["label"]))
        return [1.0, None]

    assert bound(score, group=True)([sample("a", difficulty=3), sample("b")]) == [1.0, None]
    assert seen == [(["3 + 4?"] * 2, ["a", "b"], [[3, 4]] * 2, [3, None], ["7", "7"])]


def test_a_conversation_comes_as_lists_of_messages() -> None:
    seen: dict[str, Any] = {}

    def score(prompts: Any, completions: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions)
        return [0.5]

    assert bound(score)(sample(prompt=MESSAGES)) == 0.5
    assert seen == {"prompts": [MESSAGES], "completions": [[{"role": "assistant", "content": "7"}]]}


@pytest.mark.parametrize("name", ["label", "ground_truth", "solution", "answer", "target", "reference"])
def test_the_usual_names_of_a_ground_truth_are_the_label(name: str) -> None:
    def score(completions: Any, **columns: Any) -> Any:
        return columns[name]

    assert bound(score)(sample()) == "7"
    assert bound(score)(sample(**{name: "other"})) == "other"


def test_a_column_that_no_sample_has_is_an_error_that_names_it() -> None:
    def score(completions: Any, difficulty: Any, **kwargs: Any) -> list[float]:
        return [1.0]

    with pytest.raises(RewardError, match=r"takes difficulty, which the samples' metadata lacks .*label"):
        bound(score)(sample())


def test_what_only_trls_trainer_knows_does_no_harm() -> None:
    def score(completions: Any, trainer_state: Any, log_extra: Any, log_metric: Any = None, **kwargs: Any) -> list[Any]:
        log_extra("completion", completions)
        log_metric("mean", 1.0)
        return [0.0 if trainer_state is None and not {"trainer_state", "log_extra"} & set(kwargs) else 1.0]

    assert bound(score)(sample()) == 0.0


def test_none_in_trls_list_abstains_and_an_array_is_a_list() -> None:
    import numpy as np

    assert bound(lambda completions, **kwargs: [None])(sample()) is None
    assert bound(lambda completions, **kwargs: np.array([0.25]))(sample()) == 0.25


@pytest.mark.parametrize(
    ("returned", "said"),
    [([1.0, 2.0], "returned 2 scores for 1 samples"), (1.0, "returned float"), (None, "returned NoneType")],
)
def test_a_list_of_another_length_or_no_list_is_an_error(returned: Any, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        bound(lambda completions, **kwargs: returned)(sample())


def test_an_async_trl_function_stays_async() -> None:
    async def score(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        return [float(len(c)) for c in completions]

    assert adapt("reward", score, "ref").is_async
    assert asyncio.run(bound(score)(sample("abc"))) == 3.0
    assert asyncio.run(bound(score, group=True)([sample("a"), sample("ab")])) == [1.0, 2.0]


def test_verls_function_is_called_by_keyword() -> None:
    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> Any:
        return (data_source, solution_str, ground_truth, extra_info)

    assert shape(compute_score) == "verl"
    found = bound(compute_score)(sample("8", data_source="gsm8k", index=3))
    assert found == ("gsm8k", "8", "7", {"data_source": "gsm8k", "index": 3})
    assert bound(compute_score)(sample())[0] == ""


def test_verls_function_gets_only_what_it_takes() -> None:
    def fewer(solution_str: str, ground_truth: str) -> float:
        return float(solution_str == ground_truth)

    def more(data_source: str, solution_str: str, ground_truth: str, **kwargs: Any) -> list[str]:
        return sorted(kwargs)

    assert bound(fewer)(sample()) == 1.0
    assert bound(more)(sample()) == ["extra_info"]


def test_what_verl_alone_could_give_is_refused_at_resolution() -> None:
    said = problem(lambda data_source, solution_str, ground_truth, reward_model_tokenizer: 1.0)
    assert "needs reward_model_tokenizer as well" in said


def test_verls_score_is_the_component_that_is_trained_on() -> None:
    async def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any) -> dict[str, Any]:
        return {"score": 1.0, "acc": True}

    scored = bound(compute_score)
    assert traits_of(scored).key == "score"
    assert asyncio.run(scored(sample())) == {"score": 1.0, "acc": True}


def test_verl_has_no_shape_for_a_group() -> None:
    said = problem(lambda data_source, solution_str, ground_truth: 1.0, group=True)
    assert "verl's shape" in said
    assert "--group-rm" in said


def test_groups_are_given_to_our_shape_and_to_slimes() -> None:
    def ours(samples: list[Sample]) -> list[int]:
        return [len(s.response) for s in samples]

    def slimes(args: Any, samples: list[Any], **kwargs: Any) -> list[int]:
        return [s.response_length for s in samples]

    async def slimes_async(args: Any, samples: list[Any]) -> list[str]:
        return [s.label for s in samples]

    assert bound(ours, group=True)([sample("a"), sample("ab")]) == [1, 2]
    assert shape(slimes, group=True) == "slime"
    assert bound(slimes, group=True)([sample("a"), sample("ab")]) == [2, 2]
    assert asyncio.run(bound(slimes_async, group=True)([sample()])) == ["7"]


@pytest.mark.parametrize("function", [exact, lambda args, sample: 1.0, lambda solution_str, ground_truth: 1.0])
def test_a_functions_traits_stay_with_it_in_every_shape(function: Any) -> None:
    decorated = reward_traits(pure=True, timeout_s=9)(function)
    assert traits_of(bound(decorated)).pure
    assert traits_of(bound(decorated)).timeout_s == 9


def test_a_function_decorated_for_groups_needs_no_flag() -> None:
    @reward_traits(group=True)
    def score(completions: Any, **kwargs: Any) -> list[int]:
        return [len(completions)] * len(completions)

    assert bound(score)([sample(), sample()]) == [2, 2]


def test_other_parameters_are_refused_with_every_shape_there_is() -> None:
    said = problem(lambda question, reply: 1.0)
    assert all(shape in said for shape in ("(sample)", "(args, sample", "(prompts, completions", "(data_source,"))
