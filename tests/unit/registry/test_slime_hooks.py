"""slime's shapes: told apart by their parameters, and samples that are changed under slime's names."""

from __future__ import annotations

import asyncio
import copy
import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from slimrl import Group, Sample, SamplingParams, Status
from slimrl.config import CkptConfig, EvalConfig, GrpoConfig, RolloutConfig
from slimrl.errors import PluginError, RolloutError
from slimrl.registry import RUN_HOOKS, Options, RunHookFunction, load
from slimrl.registry.adapt import adapt
from slimrl.registry.kinds import SPECS
from slimrl.registry.plugin_set import PluginReferences, resolve_all
from slimrl.registry.resolve import Resolved
from slimrl.registry.rewards import RewardReferences
from slimrl.registry.slime_sample import SlimeSample
from slimrl.testing import FakeEngine
from slimrl.tokenizer import load_tokenizer
from slimrl.traits import in_evaluation

OPTIONS = Options([RolloutConfig(reward_key="acc"), GrpoConfig()])
SHAPES = {
    "rollout_function": ("async def f(step, rollout)", "def f(args, rollout_id, data_source, evaluation=False)"),
    "eval_function": ("async def f(step, evaluation)", "def f(args, rollout_id, data_buffer, evaluation=True)"),
    "sample_hook": ("def f(sample)", "async def f(args, sample, *, rollout_id=None, evaluation=False)"),
    "sample_filter": ("def f(groups)", "def f(args, groups)"),
    "all_samples_process": ("def f(groups, source)", "def f(args, all_groups, data_source)"),
    "reward_post_process": ("def f(samples)", "def f(args, samples)"),
    "train_data_converter": ("def f(batch, groups)", "def f(args, samples)"),
    "data_postprocess": ("def f(batch, advantages)", "def f(args, rollout_id, rollout_data)"),
    "custom_advantage": ("def f(rollout)", "def f(args, rollout_data)"),
    "custom_tis": (
        "def f(log_probs, rollout_log_probs, lengths)",
        "def f(args, *, pg_loss, train_log_probs, rollout_log_probs, loss_masks, total_lengths, response_lengths)",
    ),
    "data_source": ("def f(options)", "def f(args)"),
    "rollout_log": ("def f(step, groups, metrics)", "def f(rollout_id, args, samples, extra_metrics, rollout_time)"),
    "eval_log": ("def f(step, results, metrics)", "def f(rollout_id, args, data, extra_metrics=None)"),
}


def made(signature: str) -> Any:
    scope: dict[str, Any] = {}
    exec(f"{signature}:\n    return None", scope)  # a function from its head
    return scope["f"]


def sample(tokens: int = 3) -> Sample:
    one = Sample(3, 25, 25, "prompt", [1, 2], label="7")
    if tokens:
        one.append([3, 4, 5][:tokens], [-0.1, -0.2, -0.3][:tokens], [6] * tokens, text="abc")
        one.status = Status.COMPLETED
    return one


@pytest.mark.parametrize("kind", [kind for kind in RUN_HOOKS if RUN_HOOKS[kind].slime_signature])
def test_both_shapes_of_every_hook_are_told_apart(kind: Any) -> None:
    ours, slime = SHAPES[kind]
    assert adapt(kind, made(ours), "ref").shape == "ours"
    assert adapt(kind, made(slime), "ref").shape == "slime"


@pytest.mark.parametrize("kind", RUN_HOOKS)
def test_another_signature_is_refused_with_both_that_are_taken(kind: Any) -> None:
    is_async = RUN_HOOKS[kind].waits == "must"
    with pytest.raises(PluginError) as caught:
        adapt(kind, made(("async " if is_async else "") + "def f(one, two, three, four, five, six)"), "mine.py:f")
    said = str(caught.value)
    assert "'mine.py:f' takes (one, two, three, four, five, six)" in said
    assert RUN_HOOKS[kind].signature in said
    assert RUN_HOOKS[kind].slime_signature in said


@pytest.mark.parametrize(
    ("kind", "head", "said"),
    [
        ("sample_filter", "async def f(groups)", "make it `def`"),
        ("rollout_function", "def f(step, rollout)", "must be `async def`"),
        ("rollout_function", "async def f(args, rollout_id, data_source)", "make it `def`"),
    ],
)
def test_a_hook_that_waits_where_it_must_not_or_does_not_where_it_must_is_refused(
    kind: Any, head: str, said: str
) -> None:
    with pytest.raises(PluginError, match=said):
        adapt(kind, made(head), "ref")


def test_a_class_without_the_methods_of_a_data_source_is_refused() -> None:
    class Source:
        def __init__(self, args: Any) -> None: ...
        def get_samples(self, count: int) -> list[Any]: ...

    with pytest.raises(PluginError, match="has no save, load; it needs get_samples, save, load"):
        adapt("data_source", Source, "ref")


def test_a_hook_is_not_found_by_a_bare_name() -> None:
    with pytest.raises(PluginError, match=r"sample filter 'mine' \(--rollout-sample-filter-path\) is no reference"):
        load(warn=False).resolve("sample_filter", "mine")


def test_hooks_are_resolved_with_the_other_plugins_and_locked(tmp_path: Path) -> None:
    file = tmp_path / "hooks.py"
    file.write_text("def see(sample): ...\ndef also(sample): ...\ndef log(step, results, metrics): ...\n")
    rollout = RolloutConfig(rm_type="math", rollout_sample_hook_path=(f"{file}:see", f"{file}:also"))
    evaluation = EvalConfig(custom_eval_rollout_log_function_path=f"{file}:log")
    references = PluginReferences.from_config(rollout, GrpoConfig(), evaluation)
    plugins = resolve_all(references, Options([rollout, evaluation, GrpoConfig()]))
    assert [hook.resolved.name for hook in plugins.hooks("sample_hook")] == ["see", "also"]
    assert {"sample_hook", "eval_log"} <= {row["kind"] for row in plugins.lock()}
    before = plugins.fingerprint
    file.write_text(file.read_text() + "# changed\n")
    assert resolve_all(references, Options([rollout, evaluation, GrpoConfig()])).fingerprint != before


def test_a_converter_of_slimes_leaves_a_reward_post_process_without_effect(tmp_path: Path) -> None:
    file = tmp_path / "hooks.py"
    file.write_text("def convert(args, samples): ...\ndef post(samples): ...\n")
    references = PluginReferences(
        RewardReferences(),
        run_hooks=(("reward_post_process", f"{file}:post"), ("train_data_converter", f"{file}:convert")),
    )
    with pytest.raises(PluginError, match=r"--custom-reward-post-process-path .*post has no effect with"):
        resolve_all(references, Options([RolloutConfig(), GrpoConfig()]))


def test_what_a_hook_raises_names_the_hook_and_the_line() -> None:
    def broken(groups: Any) -> None:
        raise KeyError("no such thing")

    hook = RunHookFunction(resolved_of("sample_filter", broken), OPTIONS)
    with pytest.raises(
        RolloutError, match=r"sample filter 'ref' raised KeyError: 'no such thing' \(.*test_slime_hooks"
    ):
        hook([])


def resolved_of(kind: Any, function: Any) -> Any:
    adapted = adapt(kind, function, "ref")
    return Resolved(kind, "ref", "f", None, None, None, "", adapted.shape, adapted.is_async, None, False, adapted.bind)


def test_a_sample_under_slimes_names_is_written_back() -> None:
    one = sample(tokens=0)
    view = SlimeSample(one)
    assert (view.tokens, view.response_length, view.loss_mask, view.label) == ([1, 2], 0, None, "7")
    view.tokens.append(8)
    view.tokens += [9]
    view.response_length = 2
    view.response = "xy"
    view.rollout_log_probs = [-1, -2]
    view.loss_mask = [1, 0]
    view.reward = {"acc": 1, "length": 2.5}
    view.metadata["kept"] = True
    view.status = Enum("Status", {"TRUNCATED": "truncated"}).TRUNCATED  # type: ignore[attr-defined]
    assert view.get_reward_value(type("Args", (), {"reward_key": "acc"})) == 1.0
    assert view.write_back("acc", version=4) is one
    assert (one.prompt_tokens, one.tokens, one.log_probs) == ([1, 2], [8, 9], [-1.0, -2.0])
    assert (one.loss_mask, one.weight_versions, one.response) == ([1, 0], [4, 4], "xy")
    assert (one.status, one.value, one.metadata) == (Status.TRUNCATED, 1.0, {"kept": True})
    assert one.score is not None
    assert one.score.components == {"acc": 1.0, "length": 2.5}


def test_tokens_that_were_there_keep_their_weight_versions() -> None:
    one = sample()
    view = SlimeSample(one)
    view.append_response_tokens([9, 9], [-1.0, -1.0], meta_info={"weight_version": "8"}, text="d")
    view.write_back()
    assert one.weight_versions == [6, 6, 6, 8, 8]
    assert (one.loss_mask, one.response) == ([1] * 5, "abcd")


def test_a_removed_sample_keeps_its_tokens_and_leaves_the_loss() -> None:
    one = sample()
    view = SlimeSample(one)
    view.remove_sample = True
    view.write_back()
    assert (one.tokens, one.loss_mask) == ([3, 4, 5], [0, 0, 0])


def test_a_copy_of_a_sample_has_a_sample_of_its_own() -> None:
    one = sample()
    twin = copy.deepcopy(SlimeSample(one))
    twin.append_response_tokens([9], trainable=False)
    written = twin.write_back()
    assert written is not one
    assert (one.tokens, written.tokens, written.loss_mask) == ([3, 4, 5], [3, 4, 5, 9], [1, 1, 1, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"response_length": 9}, "sample 25: response_length 9 of 5 tokens"),
        ({"response_length": 2}, "sample 25: loss_mask has 3 entries for a response_length of 2"),
        ({"rollout_log_probs": None}, "3 response tokens without rollout_log_probs"),
        ({"loss_mask": [1, 2, 1]}, "loss_mask has other values than 0 and 1"),
        ({"loss_mask": [1, 0.5, 1]}, "loss_mask has other values than 0 and 1"),
        ({"status": "done"}, "status 'done' is none of pending, completed"),
        ({"reward": float("nan")}, "the reward is nan, which is not finite"),
        ({"reward": {"a": 1, "b": 2}}, "the reward has the keys 'a', 'b'"),
        ({"reward": "good"}, "the reward 'good' is no number"),
    ],
)
def test_a_sample_that_does_not_hold_together_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    view = SlimeSample(sample())
    vars(view).update(change)
    with pytest.raises(ValueError, match=r"^sample 25: ") as caught:
        view.write_back()
    assert said in str(caught.value)


def generator(function: Any) -> Any:
    assert adapt("generator", function, "ref").shape == "slime"
    return adapt("generator", function, "ref").bind(OPTIONS)


def test_slimes_generator_gets_parameters_of_its_own_and_is_told_of_an_evaluation() -> None:
    seen: list[Any] = []

    async def generate(args: Any, sample: Any, sampling_params: dict[str, Any], evaluation: bool = False) -> Any:
        seen.append((dict(sampling_params), evaluation, args.reward_key))
        sampling_params["temperature"] = 99
        sample.append_response_tokens([7], [-0.5], text="7")
        return sample

    bound = generator(generate)
    sampling = SamplingParams(max_new_tokens=5, temperature=0.5, stop=("x",), sampling_seed=3)
    one = sample(tokens=0)
    assert asyncio.run(bound(one, sampling, FakeEngine())) is one
    assert (one.tokens, one.status) == ([7], Status.COMPLETED)
    asyncio.run(in_evaluation(bound)(sample(tokens=0), sampling, FakeEngine()))
    assert [entry[1:] for entry in seen] == [(False, "acc"), (True, "acc")]
    assert seen[0][0] == seen[1][0]
    assert seen[0][0]["temperature"] == 0.5
    assert (seen[0][0]["stop"], seen[0][0]["sampling_seed"]) == (["x"], 3)


def test_slimes_generator_may_fan_out() -> None:
    async def generate(args: Any, sample: Any, sampling_params: Any) -> Any:
        twin = copy.deepcopy(sample)
        for one in (sample, twin):
            one.append_response_tokens([7], [-0.5])
        return [[sample, twin]]

    first, second = asyncio.run(generator(generate)(sample(tokens=0), SamplingParams(4), FakeEngine()))
    assert first is not second
    assert first.tokens == second.tokens == [7]


def test_slimes_generator_that_returns_something_else_is_told() -> None:
    async def generate(args: Any, sample: Any, sampling_params: Any) -> Any:
        return {"text": "x"}

    with pytest.raises(TypeError, match="the generator returned dict; it returns the sample it was given"):
        asyncio.run(generator(generate)(sample(tokens=0), SamplingParams(4), FakeEngine()))


def test_args_have_the_engines_address_and_say_so_where_there_is_none() -> None:
    async def generate(args: Any, sample: Any, sampling_params: Any) -> Any:
        sample.metadata["address"] = f"{args.sglang_router_ip}:{args.sglang_router_port}"
        return sample

    class Served(FakeEngine):
        url = "http://10.0.0.7:31000"

    one = sample(tokens=0)
    asyncio.run(generator(generate)(one, SamplingParams(4), Served()))
    assert one.metadata["address"] == "10.0.0.7:31000"
    with pytest.raises(AttributeError, match="sglang_router_ip"):
        asyncio.run(generator(generate)(sample(tokens=0), SamplingParams(4), FakeEngine()))


def test_every_hook_of_a_run_has_a_flag_with_a_setting() -> None:
    settings = {*inspect.signature(RolloutConfig).parameters, *inspect.signature(EvalConfig).parameters}
    settings |= {*inspect.signature(GrpoConfig).parameters}
    assert {spec.setting for spec in RUN_HOOKS.values()} <= settings


def row_of(flag: str) -> str:
    """The row of docs/hooks.md that a flag is in; there is exactly one."""
    page = (Path(__file__).parents[3] / "docs/hooks.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| `--") and f"`{flag}`" in line.split("|")[1]]
    return row


@pytest.mark.parametrize("kind", SPECS)
def test_the_page_has_every_flag_that_names_a_function(kind: Any) -> None:
    for flag in re.findall(r"--[\w-]+", SPECS[kind].flag):
        assert row_of(flag)


@pytest.mark.parametrize("kind", RUN_HOOKS)
def test_the_page_has_the_parameters_of_every_function_of_a_run(kind: Any) -> None:
    spec = RUN_HOOKS[kind]
    for words in (spec.signature, spec.slime_signature):
        assert all(
            name in row_of(spec.flag) for name in re.findall(r"\w+", words.partition(" which")[0].replace(" and ", " "))
        )


def test_slimes_buffer_filter_takes_lists_of_samples_out_of_the_buffer() -> None:
    def pop_longest(args: Any, rollout_id: Any, buffer: list[Any], num_samples: int) -> list[Any]:
        buffer.sort(key=lambda group: -group[0].response_length)
        taken, buffer[:] = buffer[:num_samples], buffer[num_samples:]
        del buffer[-1]
        return taken

    groups = [Group(place, [sample(tokens)]) for place, tokens in enumerate((1, 3, 0, 2))]
    buffer = list(groups)
    take = adapt("buffer_filter", pop_longest, "ref").bind(OPTIONS)
    assert take(buffer, 1) == [groups[1]]
    assert buffer == [groups[0], groups[3]]
    stray = adapt("buffer_filter", lambda args, rollout_id, buffer, num_samples: [[]], "ref").bind(OPTIONS)
    with pytest.raises(ValueError, match="a group that is not in the buffer"):
        stray(buffer, 1)


def test_what_a_filter_raises_is_told_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "filters.py"
    file.write_text("def keep(group):\n    return 1 / 0\n")
    references = PluginReferences(RewardReferences(), dynamic_filter=f"{file}:keep")
    keep = resolve_all(references, Options([RolloutConfig(), GrpoConfig()])).dynamic_filter
    assert keep is not None
    with pytest.raises(RolloutError, match=r"dynamic filter '.*filters.py:keep' raised ZeroDivisionError"):
        keep(Group(0, [sample()]))


def test_slimes_generator_sees_the_templated_text_of_a_prompt(tiny_checkpoint: Path) -> None:
    async def generate(args: Any, sample: Any, sampling_params: Any) -> Any:
        sample.metadata["seen"] = sample.prompt
        return sample

    options = Options([RolloutConfig(apply_chat_template=True), CkptConfig(hf_checkpoint=tiny_checkpoint)])
    one = sample(tokens=0)
    asyncio.run(adapt("generator", generate, "ref").bind(options)(one, SamplingParams(4), FakeEngine()))
    assert one.metadata["seen"] == load_tokenizer(tiny_checkpoint).decode([1, 2])
    assert one.prompt == "prompt"
