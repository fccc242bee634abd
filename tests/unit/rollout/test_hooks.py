"""Functions of the user's between prompts and batch: what they may change, and what is said when they break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slimrl import Evaluation, Group, Rollout, Sample, SamplingParams, Score, Status, Verdict
from slimrl.config import CkptConfig, GrpoConfig, RolloutConfig
from slimrl.data.buffer import Buffer
from slimrl.data.foreign import ForeignSource
from slimrl.data.prompts import PromptRow
from slimrl.data.source import PromptSource
from slimrl.errors import CheckpointError, RolloutError
from slimrl.registry import Options, RunHookFunction
from slimrl.registry.adapt import adapt
from slimrl.registry.resolve import Resolved
from slimrl.rollout.eval_function import OneEvaluation, evaluate_with
from slimrl.rollout.gate import Gate
from slimrl.rollout.hooks import RolloutHooks
from slimrl.rollout.loop import FillSettings
from slimrl.rollout.produce import produce
from slimrl.rollout.rollout_function import OneRollout, fill_with
from slimrl.rollout.supply import RunSupply
from slimrl.testing import FakeEngine
from slimrl_filters.buffer import pop_first

OPTIONS = Options([RolloutConfig(reward_key="acc", n_samples_per_prompt=2), GrpoConfig(), CkptConfig()])
SETTINGS = FillSettings(wanted=2, in_flight=2, max_finished=8)


def hook(kind: Any, function: Any) -> RunHookFunction:
    found = adapt(kind, function, "mine.py:f")
    return RunHookFunction(
        Resolved(kind, "mine.py:f", "f", None, None, None, "", found.shape, found.is_async, None, False, found.bind),
        OPTIONS,
    )


def hooks(**functions: Any) -> RolloutHooks:
    """The hooks of a run, by kind."""
    found = {kind: hook(kind, function) for kind, function in functions.items()}
    plugins: Any = SimpleNamespace(
        hook=found.get,
        hooks=lambda kind: [found[kind]] if kind in found else [],
        reference_of=lambda generate: "mine.py:generate",
    )  # stands for a plugin set
    made = RolloutHooks(plugins, lambda name, **fields: None)
    made.step = 7
    return made


def pending(group_id: int, size: int = 2) -> Group:
    ids = range(group_id * size, (group_id + 1) * size)
    return Group(group_id, [Sample(group_id, i, i, f"prompt {group_id}", [1, 2], seed=i) for i in ids])


def finished(group_id: int, rewards: tuple[float | None, ...] = (1.0, 0.0)) -> Group:
    group = pending(group_id, len(rewards))
    for one, reward in zip(group, rewards, strict=True):
        one.append([5, 6, 7], [-1.0, -2.0, -3.0], [4, 4, 4], text="abc")
        one.status = Status.COMPLETED
        one.score = Score.scored(reward) if reward is not None else Score("error", reason="broke")
    return group


class Counting:
    """An endless source."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> list[Group]:
        self.next += count
        return [pending(group_id) for group_id in range(self.next - count, self.next)]

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


def supply() -> tuple[RunSupply, Buffer]:
    buffer = Buffer(pop_first)
    return RunSupply(Counting(), buffer), buffer


async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
    sample.append([9], [-0.1], [4], text="9")
    sample.status = Status.COMPLETED
    return sample


async def score(group: Group) -> None:
    for one in group:
        if one.score is None and one.status is not Status.FAILED:
            one.score = Score.scored(len(one.tokens))


def test_a_sample_hook_that_raises_fails_its_sample_alone() -> None:
    def see(sample: Sample) -> None:
        if sample.sample_id == 0:
            raise ValueError("not this one")

    group = pending(0)
    around = hooks(sample_hook=see).around(generate)
    asyncio.run(produce(group, around, FakeEngine(), score, SamplingParams(4)))
    assert [one.status for one in group] == [Status.FAILED, Status.COMPLETED]
    assert group.samples[0].reason.startswith("sample hook 'mine.py:f' raised ValueError: not this one")


def test_a_sample_hook_may_change_the_tokens_that_are_scored() -> None:
    async def see(args: Any, sample: Any, rollout_id: int, evaluation: bool) -> None:
        sample.append_response_tokens([8], trainable=False)
        sample.metadata["told"] = (rollout_id, evaluation)

    group = pending(0)
    around = hooks(sample_hook=see).around(generate, evaluation=True)
    asyncio.run(produce(group, around, FakeEngine(), score, SamplingParams(4)))
    assert [(one.tokens, one.loss_mask, one.value) for one in group] == [([9, 8], [1, 0], 2.0)] * 2
    assert group.samples[0].metadata["told"] == (7, True)


def test_a_filtered_sample_leaves_the_loss_and_stays_in_its_group() -> None:
    groups = [finished(0), finished(1)]
    found = hooks(sample_filter=lambda groups: [groups[1].samples[0]])
    assert found.filter_samples(groups) == {"rollout/removed_samples": 1.0}
    batch, _ = found.make_batch(groups)
    assert batch.loss_mask.tolist() == [1] * 6 + [0] * 3 + [1] * 3
    assert batch.rewards.tolist() == [1, 0, 1, 0]


def test_a_filter_that_returns_strangers_is_refused() -> None:
    with pytest.raises(RolloutError, match=r"sample filter 'mine.py:f' returned something that is not a sample"):
        hooks(sample_filter=lambda groups: finished(5).samples).filter_samples([finished(0)])


def test_a_reward_post_process_sees_no_sample_without_a_score() -> None:
    seen: list[Any] = []

    def post(args: Any, samples: Any) -> Any:
        seen.extend(one.reward for one in samples)
        return seen, [10.0, 20.0, 30.0]

    batch, metrics = hooks(reward_post_process=post).make_batch([finished(0), finished(1, (None, 0.5))])
    assert seen == [1.0, 0.0, 0.5]
    assert batch.advantages is not None
    assert batch.advantages.tolist() == [10, 20, 30]
    assert metrics == {"rollout/raw_reward_mean": 0.5}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], "returned 1 numbers for 2 samples"),
        ([1.0, float("inf")], "returned a number that is not finite"),
        (3, "something else than a list of numbers"),
        ([1.0, None], "something else than a list of numbers"),
    ],
)
def test_a_reward_post_process_returns_a_number_a_sample(returned: Any, said: str) -> None:
    with pytest.raises(RolloutError, match=f"reward post-process 'mine.py:f' .*{said}"):
        hooks(reward_post_process=lambda samples: returned).make_batch([finished(0)])


def test_a_converter_of_ours_returns_a_batch_that_holds_together() -> None:
    found = hooks(train_data_converter=lambda batch, groups: replace(batch, log_probs=batch.log_probs[1:]))
    with pytest.raises(RolloutError, match="returned a batch whose log_probs has 5 entries for 6 response tokens"):
        found.make_batch([finished(0)])


def test_a_converters_masks_are_zeros_and_ones() -> None:
    masks = np.array([1, 2, 1, 1, 1, 1], np.uint8)
    found = hooks(train_data_converter=lambda batch, groups: replace(batch, loss_mask=masks))
    with pytest.raises(RolloutError, match="returned a batch whose loss_mask has other values than 0 and 1"):
        found.make_batch([finished(0)])


def data(samples: Any, **changes: Any) -> dict[str, Any]:
    made = {
        "tokens": [one.tokens for one in samples],
        "response_lengths": [one.response_length for one in samples],
        "rewards": [one.reward for one in samples],
        "loss_masks": [[0, 1, 1] for _ in samples],
        "truncated": [0 for _ in samples],
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def test_a_converter_of_slimes_makes_a_batch_of_lists() -> None:
    def convert(args: Any, samples: Any) -> Any:
        return data(samples, rollout_log_probs=[[-1, -1, -1]] * 2)

    batch, _ = hooks(train_data_converter=convert).make_batch([finished(0)])
    assert batch.tokens.tolist() == [1, 2, 5, 6, 7] * 2
    assert (batch.prompt_lengths.tolist(), batch.loss_mask.tolist()) == ([2, 2], [0, 1, 1] * 2)
    assert batch.log_probs.tolist() == [-1] * 6
    assert (batch.rollout_ids.tolist(), batch.group_ids.tolist()) == ([0, 1], [0, 0])
    assert batch.advantages is not None
    assert batch.advantages.tolist() == [1, 0]


@pytest.mark.parametrize("is_returned", [True, False])
def test_a_converter_of_slimes_sees_what_a_teacher_said_and_need_not_return_it(is_returned: bool) -> None:
    group = finished(0)
    for one in group:
        one.teacher_log_probs = [-2.0, -3.0, -4.0]

    def convert(args: Any, samples: Any) -> Any:
        return data(samples, teacher_log_probs=[s.teacher_log_probs for s in samples] if is_returned else None)

    batch, _ = hooks(train_data_converter=convert).make_batch([group])
    assert batch.teacher_log_probs is not None
    assert batch.teacher_log_probs.tolist() == [-2, -3, -4] * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_masks": None}, "returned no 'loss_masks'"),
        ({"rewards": [1.0]}, "returned 'rewards' with 1 entries for 2 in 'tokens'"),
        ({"loss_masks": [[1], [1]]}, "'loss_masks' with 1 entries for the 3 response tokens of sample 0"),
        ({"loss_masks": [[1, 0.5, 1], [1] * 3]}, "'loss_masks' with other values than 0 and 1 for sample 0"),
        ({"teacher_log_probs": []}, "returned 'teacher_log_probs', which nothing here reads"),
        ({"sample_indices": [0, 9]}, "'sample_indices' with 9, which is no sample of this batch"),
        (
            {"response_lengths": [5, 5], "loss_masks": [[1] * 5] * 2, "rollout_log_probs": [[-1] * 5] * 2},
            "empty prompt",
        ),
    ],
)
def test_slimes_train_data_is_refused_by_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RolloutError, match=f"train data converter 'mine.py:f' .*{said}"):
        hooks(train_data_converter=lambda args, samples: data(samples, **changes)).make_batch([finished(0)])


def test_slimes_converter_may_leave_samples_out_and_group_them_anew() -> None:
    def convert(args: Any, samples: Any) -> Any:
        return data(samples[:2], sample_indices=[1, 0], rollout_ids=[5, 5])

    batch, _ = hooks(train_data_converter=convert).make_batch([finished(0), finished(1)])
    assert (batch.sample_ids.tolist(), batch.rollout_ids.tolist()) == ([1, 0], [5, 5])


def test_a_log_function_may_add_metrics_but_numbers_only() -> None:
    def log(step: int, groups: Any, metrics: dict[str, Any]) -> bool:
        metrics["mine/a"] = np.float32(2)
        return True

    metrics = {"rollout/reward_mean": 0.5}
    assert hooks(rollout_log=log).logs_rollout([finished(0)], metrics, 1.0)
    assert metrics == {"rollout/reward_mean": 0.5, "mine/a": 2.0}
    with pytest.raises(RolloutError, match="set the metric 'mine/b' to 'x', which is no number"):
        hooks(rollout_log=lambda step, groups, metrics: metrics.update({"mine/b": "x"})).logs_rollout([], {}, 1.0)


def rollout(own: RunSupply, keep: Any = None) -> OneRollout:
    async def made(group: Group) -> Group:
        return await produce(group, generate, FakeEngine(), score, SamplingParams(4))

    return OneRollout(7, 2, SamplingParams(4), FakeEngine(), own, keep, made)


def fill(function: Any, own: RunSupply, keep: Any = None) -> Any:
    return asyncio.run(fill_with(hook("rollout_function", function), rollout(own, keep), score, SETTINGS))


def test_a_rollout_function_of_ours_fills_a_batch() -> None:
    own, buffer = supply()

    async def mine(step: int, rollout: Rollout) -> Any:
        one, two, three, four = rollout.take(4)
        await asyncio.gather(*(rollout.produce(group) for group in (one, two, three)))
        rollout.judge(two)
        rollout.put_back(four)
        return [three, one], {"rollout/mine": 3}

    filled, metrics = fill(mine, own, lambda group: Verdict(keep=False, reason="dull"))
    assert [group.group_id for group in filled.kept] == [0, 2]
    assert [(group.group_id, group.verdict.reason) for group in filled.dropped] == [(1, "dull")]
    assert [group.group_id for group in buffer.groups] == [3]
    assert metrics == {"rollout/mine": 3.0}


def test_a_rollout_function_of_slimes_runs_in_a_thread_and_is_scored_where_it_did_not() -> None:
    own, buffer = supply()

    def generate_rollout(args: Any, rollout_id: int, data_source: Any, evaluation: bool = False) -> Any:
        groups = data_source.get_samples(4)
        for group in groups[:3]:
            for one in group:
                one.append_response_tokens([3], [-0.5])
                one.reward = None if one.group_index == 0 else {"acc": 0.25 * one.index}
        data_source.add_samples(groups[3:])
        return SimpleNamespace(samples=groups[:2], metrics={"rollout/id": rollout_id})

    filled, metrics = fill(generate_rollout, own)
    assert [[one.value for one in group] for group in filled.kept] == [[1.0, 1.0], [0.5, 0.75]]
    assert [group.group_id for group in filled.dropped] == [2]
    assert [group.group_id for group in buffer.groups] == [3]
    assert metrics == {"rollout/id": 7.0}


def broken_rollout(change: Any) -> Any:
    async def mine(step: int, rollout: Rollout) -> Any:
        groups = [await rollout.produce(group) for group in rollout.take(2)]
        return change(groups)

    return mine


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda groups: groups[:1], "returned 1 groups; a batch has 2"),
        (lambda groups: [groups[0], groups[0]], "returned group 0 twice"),
        (lambda groups: "x", "returned str; it returns a list of Groups"),
        (lambda groups: [groups[0], pending(9)], "returned sample 18 which is still pending"),
        (lambda groups: groups[0].samples[0].log_probs.clear() or groups, "sample 0 with 1 tokens, 0 log_probs"),
        (lambda groups: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_rollout_function_that_breaks_is_named_and_loses_no_prompt(change: Any, said: str) -> None:
    own, buffer = supply()
    with pytest.raises(RolloutError, match=f"rollout function 'mine.py:f' .*{said}"):
        fill(broken_rollout(change), own)
    assert [group.group_id for group in buffer.groups] == [0, 1]


def test_an_evaluation_function_returns_groups_rewards_or_numbers() -> None:
    own, _ = supply()
    evaluation = OneEvaluation(3, [], FakeEngine(), lambda eval_set: None)  # type: ignore[arg-type, return-value]

    async def mine(step: int, evaluation: Evaluation) -> Any:
        return {"a": [finished(0)], "b": {"rewards": [{"acc": 1}, None]}, "eval/c": 3}

    metrics, results = asyncio.run(evaluate_with(hook("eval_function", mine), evaluation, own, "acc"))
    assert (metrics["eval/a"], metrics["eval/b"], metrics["eval/c"]) == (0.5, 1.0, 3.0)
    assert (metrics["eval/b-unscored_ratio"], list(results)) == (0.5, ["a"])
    wrong = hook("eval_function", broken_evaluation)
    with pytest.raises(RolloutError, match=r"evaluation function 'mine.py:f' returned str for 'a'"):
        asyncio.run(evaluate_with(wrong, evaluation, own, None))


async def broken_evaluation(step: int, evaluation: Evaluation) -> Any:
    return {"a": "x"}


class SlimeSource:
    """A data source as one writes it for slime; its samples may be anything with a prompt."""

    def __init__(self, args: Any) -> None:
        self.args, self.at = args, 0

    def get_samples(self, count: int) -> Any:
        groups = range(self.at, self.at + count)
        self.at += count
        return [[SimpleNamespace(prompt=f"prompt {group}", label=group)] * 2 for group in groups]

    def save(self, rollout_id: int) -> None:
        folder = Path(self.args.save, "rollout")
        folder.mkdir()
        (folder / f"state_{rollout_id}.json").write_text(json.dumps(self.at))

    def load(self, rollout_id: int) -> None:
        self.at = json.loads(Path(self.args.load, "rollout", f"state_{rollout_id}.json").read_text())


class Encoder:
    """Token ids that are the characters'."""

    def encode(self, row: Any, where: str) -> list[int]:
        return [ord(character) for character in row.prompt]


def source(function: Any) -> ForeignSource:
    return ForeignSource(hook("data_source", function), Encoder(), group_size=2, seed=1)  # type: ignore[arg-type]


def test_a_data_source_of_slimes_goes_on_from_a_checkpoint() -> None:
    first = source(SlimeSource)
    first.take(2)
    state = json.loads(json.dumps(first.state()))
    expected = first.take(1)[0]
    second = source(SlimeSource)
    second.restore(state)
    (found,) = second.take(1)
    assert found == expected
    assert [one.sample_id for one in found] == [4, 5]
    assert (found.samples[0].prompt_tokens, found.samples[0].label) == ([ord(c) for c in "prompt 2"], 2)
    assert found.samples[0].seed != found.samples[1].seed
    with pytest.raises(AttributeError, match=r"args\.at"):
        _ = second.own.args.at
    assert second.own.args.save is None


def test_a_checkpoint_of_other_prompts_is_refused() -> None:
    with pytest.raises(CheckpointError, match="stands in the prompts of --prompt-data, not in those of data source"):
        source(SlimeSource).restore({"epoch": 0, "offset": 3, "next_group_id": 3})
    prompts: Any = [PromptRow("a"), PromptRow("b")]
    own = PromptSource(prompts, lambda row, where: [1], group_size=2, shuffle=False, seed=1)
    with pytest.raises(CheckpointError, match="stands in the prompts of the data source 'f'"):
        own.restore(source(SlimeSource).state())


def test_a_data_source_that_returns_too_little_is_named() -> None:
    class Short(SlimeSource):
        def get_samples(self, count: int) -> Any:
            return super().get_samples(count)[:-1]

    with pytest.raises(RolloutError, match=r"data source 'mine.py:f' returned 2 groups when asked for 3"):
        source(Short).take(3)


def test_a_data_source_of_ours_is_checked_and_its_prompts_are_encoded() -> None:
    class Bare(Counting):
        def take(self, count: int) -> list[Group]:
            groups = super().take(count)
            for group in groups:
                for one in group:
                    one.prompt_tokens = []
            return groups[: len(groups)]

    def make(options: Any) -> Any:
        assert options[RolloutConfig].reward_key == "acc"
        return Bare()

    (group,) = source(make).take(1)
    assert group.samples[0].prompt_tokens == [ord(c) for c in "prompt 0"]
    assert group.samples[0].prompt_tokens is group.samples[1].prompt_tokens

    with pytest.raises(RolloutError, match="made Group, which has no take, state, restore"):
        source(lambda options: pending(0))


def test_a_full_batch_ends_what_a_generator_asked_the_engine_for_by_itself() -> None:
    class Counted(FakeEngine):
        aborts = 0

        async def abort_all(self) -> None:
            self.aborts += 1

    engine = Counted()
    asyncio.run(Gate(engine, 4).shut())
    assert engine.aborts == 1
