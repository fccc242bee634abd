"""The generator multi_turn, and the conversation that it holds: what is sent, what is trained on, how it ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import (
    ChatTemplate,
    Completion,
    Group,
    PlainTemplate,
    Sample,
    SamplingParams,
    SlimrlError,
    Status,
    UsageError,
)
from slimrl.cli import check
from slimrl.config import CkptConfig, RolloutConfig
from slimrl.registry.options import Options
from slimrl.rollout.produce import produce
from slimrl.testing.fake_engine import FakeEngine, to_text
from slimrl.testing.generator_checks import CHECKS
from slimrl.testing.samples import make_sample
from slimrl.traits import does_continue
from slimrl_generators.conversation import Template
from slimrl_generators.multi_turn import EnvironmentOptions, make, multi_turn
from slimrl_generators.user_function import load_function, outside

SAMPLING = SamplingParams(max_new_tokens=60, sampling_seed=7)
EXAMPLE = Path(__file__).parents[2] / "examples/multi_turn"
BETWEEN = "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def ask_twice(sample: Sample, reply: str) -> str | None:
    """Doubts the first reply."""
    sample.metadata["seen"] = [*sample.metadata.get("seen", []), reply]
    return "Sure?" if len(sample.metadata["seen"]) < 2 else None


def doubt(sample: Sample, reply: str) -> str:
    return "No."


def pending(**metadata: Any) -> Sample:
    return make_sample("", "7", metadata, status=Status.PENDING)


def fill(
    template: Template,
    environment: Callable[..., Any],
    engine: FakeEngine,
    sample: Sample | None = None,
    *,
    sampling: SamplingParams = SAMPLING,
    max_turns: int = 8,
    timeout_s: float = 30,
) -> Sample:
    generate = multi_turn(outside(environment), lambda: template, max_turns, timeout_s)
    found = asyncio.run(generate(sample or pending(), sampling, engine))
    assert isinstance(found, Sample)
    return found


def parts(sample: Sample) -> list[tuple[int, str]]:
    """The runs of equal loss mask, each with its text; token 256 is shown as <."""
    found: list[tuple[int, str]] = []
    for token, mask in zip(sample.tokens, sample.loss_mask, strict=True):
        shown = "<" if token == 256 else ">" if token == 0 else chr(token)
        if found and found[-1][0] == mask:
            found[-1] = (mask, found[-1][1] + shown)
        else:
            found.append((mask, shown))
    return found


def test_only_what_the_model_wrote_is_trained_on(template: ChatTemplate) -> None:
    sample = fill(template, ask_twice, FakeEngine(["It is 8.", "7"]))
    assert parts(sample) == [(1, "It is 8.>"), (0, "\n<user\nSure?>\n<assistant\n"), (1, "7>")]
    assert [p for p, mask in zip(sample.log_probs, sample.loss_mask, strict=True) if not mask] == [0.0] * 25
    assert all(p < 0 for p, mask in zip(sample.log_probs, sample.loss_mask, strict=True) if mask)
    assert sample.weight_versions == [1] * len(sample.tokens)
    assert (sample.status, sample.reason) == (Status.COMPLETED, "")
    assert sample.response == f"It is 8.<|im_end|>{BETWEEN.format('Sure?')}7"
    assert sample.metadata["multi_turn"]["messages"] == [
        {"role": "assistant", "content": "It is 8."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "7"},
    ]


def test_each_request_is_the_tokens_that_are_there(template: ChatTemplate) -> None:
    engine = FakeEngine(seed=4)
    sample = fill(template, doubt, engine, max_turns=3)
    whole = sample.prompt_tokens + sample.tokens
    begins = [i for i, mask in enumerate(sample.loss_mask) if mask and (i == 0 or not sample.loss_mask[i - 1])]
    assert [list(request.input_ids) for request in engine.requests] == [
        whole[: len(sample.prompt_tokens) + begin] for begin in begins
    ]
    assert len({request.sampling.sampling_seed for request in engine.requests}) == len(begins) > 1


def test_a_reply_that_is_cut_gets_the_end_of_its_turn_before_the_next(template: ChatTemplate) -> None:
    class Stopping(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Completion:
            found = await super().generate(*args, **kwargs)
            return Completion(found.tokens[:-1], found.log_probs[:-1], found.weight_versions[:-1], found.text, "stop")

    sample = fill(template, ask_twice, Stopping(["It is 8.", "7"]))
    assert parts(sample)[:2] == [(1, "It is 8."), (0, ">\n<user\nSure?>\n<assistant\n")]


def test_without_a_chat_template_what_is_told_is_plain_text(byte_checkpoint: Path) -> None:
    sample = fill(PlainTemplate.open(byte_checkpoint), ask_twice, FakeEngine(["It is 8.", "7"]))
    assert parts(sample) == [(1, "It is 8.>"), (0, "Sure?"), (1, "7>")]
    assert sample.response == "It is 8.Sure?7"


def test_several_messages_with_roles_are_told_at_once(template: ChatTemplate) -> None:
    def told(sample: Sample, reply: str) -> list[dict[str, str]] | None:
        tools = [{"role": "tool", "content": "3"}, {"role": "user", "content": "And?"}]
        return tools if reply == "It is 8." else None

    sample = fill(template, told, FakeEngine(["It is 8.", "7"]))
    assert parts(sample)[1] == (0, "\n<tool\n3>\n<user\nAnd?>\n<assistant\n")


def test_all_replies_together_keep_to_the_budget(template: ChatTemplate) -> None:
    sampling = SamplingParams(max_new_tokens=12, sampling_seed=7)
    engine = FakeEngine("It is 8.")
    sample = fill(template, doubt, engine, sampling=sampling)
    assert [request.sampling.max_new_tokens for request in engine.requests] == [12, 3]
    assert (sum(sample.loss_mask), sample.loss_mask[-1], sample.status) == (12, 1, Status.TRUNCATED)


def test_a_budget_that_is_spent_to_the_last_token_ends_without_words_for_nobody(template: ChatTemplate) -> None:
    sample = fill(template, doubt, FakeEngine("It is 8."), sampling=SamplingParams(max_new_tokens=9))
    assert (parts(sample), sample.status) == ([(1, "It is 8.>")], Status.TRUNCATED)


@pytest.mark.parametrize(("room", "turns"), [(13, 0), (14, 0), (14 + 9 + 23, 1), (14 + 9 + 24, 2), (200, 3)])
def test_prompt_and_response_keep_to_the_context(template: ChatTemplate, room: int, turns: int) -> None:
    """The prompt has 14 tokens, a reply 9, what is told in between 23."""
    sampling = SamplingParams(max_new_tokens=60, max_context_len=room)
    sample = fill(template, doubt, FakeEngine("It is 8."), sampling=sampling, max_turns=3)
    assert len(sample.prompt_tokens) + len(sample.tokens) <= max(room, 14)
    assert sum(m["role"] == "assistant" for m in sample.metadata["multi_turn"]["messages"]) == turns
    assert sample.loss_mask[-1:] in ([], [1])
    assert sample.status is Status.TRUNCATED


def test_the_environment_sees_a_reply_that_was_cut_and_the_last_one(template: ChatTemplate) -> None:
    seen: list[tuple[str, Status]] = []

    def watch(sample: Sample, reply: str) -> str:
        seen.append((reply, sample.status))
        return "Go on."

    sample = fill(template, watch, FakeEngine("It is 8."), max_turns=2)
    assert (sample.status, parts(sample)[-1]) == (Status.TRUNCATED, (1, "It is 8.>"))
    fill(template, watch, FakeEngine("It is 8."), sampling=SamplingParams(max_new_tokens=5))
    assert seen == [
        ("It is 8.", Status.COMPLETED),
        ("It is 8.", Status.COMPLETED),
        ("It is", Status.TRUNCATED),
    ]


def test_an_empty_reply_is_answered_too(template: ChatTemplate) -> None:
    assert parts(fill(template, ask_twice, FakeEngine(["", "7"])))[0] == (1, ">")


class CuttingEngine(FakeEngine):
    """Says what an uninterrupted sample says, and is aborted at the places that are given, counted in tokens."""

    def __init__(self, whole: Sample, cuts: Sequence[int]) -> None:
        super().__init__()
        self._whole, self._cuts = whole, sorted(cuts)

    async def generate(self, input_ids: Sequence[int], sampling: SamplingParams, **kwargs: Any) -> Completion:
        whole = self._whole
        begin = len(input_ids) - len(whole.prompt_tokens)
        assert list(input_ids) == (whole.prompt_tokens + whole.tokens)[: len(input_ids)]
        end = next((i for i in range(begin, len(whole.tokens)) if not whole.loss_mask[i]), len(whole.tokens))
        assert whole.loss_mask[begin] == 1
        is_cut = bool(self._cuts) and self._cuts[0] < end
        if is_cut:
            end = max(begin, self._cuts.pop(0))
        tokens, log_probs = whole.tokens[begin:end], whole.log_probs[begin:end]
        finish = "abort" if is_cut else "stop" if tokens[-1] == 0 else "length"
        return Completion(tokens, log_probs, [1] * len(tokens), to_text(tokens), finish, "cut" if is_cut else "")


def revived(sample: Sample) -> Sample:
    """A sample as it comes back from a checkpoint, made ready as a partial rollout does."""
    values = json.loads(json.dumps(asdict(sample)))
    return Sample(**{**values, "status": Status.PENDING, "reason": ""})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 90), max_size=6), st.integers(20, 40))
def test_a_sample_cut_off_anywhere_goes_on_as_if_it_never_was(
    template: ChatTemplate, cuts: list[int], budget: int
) -> None:
    def count(sample: Sample, reply: str) -> str | None:
        sample.metadata["count"] = sample.metadata.get("count", 0) + 1
        return f"Not {sample.metadata['count']}." if sample.metadata["count"] < 4 else None

    sampling = SamplingParams(max_new_tokens=budget, sampling_seed=7)
    whole = fill(template, count, FakeEngine("It is ü."), pending(a=1), sampling=sampling)
    engine, sample = CuttingEngine(whole, cuts), pending(a=1)
    for _ in range(len(cuts) + 1):
        sample = fill(template, count, engine, revived(sample), sampling=sampling)
        if sample.status is not Status.ABORTED:
            break
        assert sample.reason == "cut"
        assert len({len(sample.tokens), len(sample.log_probs), len(sample.loss_mask), len(sample.weight_versions)}) == 1
    assert asdict(sample) == asdict(whole)


def test_a_sample_that_starts_over_has_the_metadata_that_it_was_given(template: ChatTemplate) -> None:
    sample = fill(template, ask_twice, FakeEngine(["It is 8.", "7"]), pending(a=1))
    for per_token in (sample.tokens, sample.log_probs, sample.loss_mask, sample.weight_versions):
        per_token.clear()
    sample.response, sample.status = "", Status.PENDING  # as the buffer does
    again = fill(template, ask_twice, FakeEngine(["9", "7"]), sample)
    assert {key: value for key, value in again.metadata.items() if key != "multi_turn"} == {"a": 1, "seen": ["9", "7"]}


def test_what_another_generator_began_is_the_begin_of_the_first_reply(template: ChatTemplate) -> None:
    sample = pending()
    sample.append(list(b"It "), [-0.5] * 3, [0] * 3, text="It ")
    sample = fill(template, ask_twice, FakeEngine(["is 8.", "7"]), sample)
    assert sample.metadata["seen"] == ["It is 8.", "7"]
    assert parts(sample)[0] == (1, "It is 8.>")


def test_a_run_that_stops_while_the_environment_thinks_goes_on_with_its_answer(template: ChatTemplate) -> None:
    sample, thinking = pending(), threading.Event()

    async def cut_off() -> None:
        async def think(sample: Sample, reply: str) -> str:
            sample.metadata["touched"] = True
            thinking.set()
            await asyncio.sleep(3600)
            return "never"

        generate = multi_turn(outside(think), lambda: template, 8, 7200)
        work = asyncio.ensure_future(generate(sample, SAMPLING, FakeEngine("It is 8.")))
        await asyncio.to_thread(thinking.wait)
        work.cancel()
        await asyncio.wait({work}, timeout=10)
        assert work.cancelled()

    asyncio.run(cut_off())
    assert (sample.status, parts(sample)) == (Status.ABORTED, [(1, "It is 8.>")])
    assert "touched" not in sample.metadata
    engine = FakeEngine("7")
    sample = fill(template, ask_twice, engine, revived(sample))
    assert sample.metadata["seen"] == ["It is 8.", "7"]
    assert len(engine.requests) == 1


def test_an_environment_cannot_change_the_sample_but_for_its_metadata(template: ChatTemplate) -> None:
    def meddle(sample: Sample, reply: str) -> None:
        sample.status, sample.response, sample.label = Status.FAILED, "mine", None
        sample.metadata = {"solved": True, "multi_turn": "mine"}

    sample = fill(template, meddle, FakeEngine("7"))
    assert (sample.status, sample.response, sample.label) == (Status.COMPLETED, "7", "7")
    assert sample.metadata["solved"] is True
    assert sample.metadata["multi_turn"]["messages"] == [{"role": "assistant", "content": "7"}]


def raise_it(sample: Sample, reply: str) -> str:
    raise KeyError("room")


def exit_it(sample: Sample, reply: str) -> str:
    raise SystemExit("bye")


def hang(sample: Sample, reply: str) -> str:
    time.sleep(3)
    return "late"


async def hang_async(sample: Sample, reply: str) -> str:
    time.sleep(0.1)  # noqa: ASYNC251  # it may even keep its own event loop waiting
    await asyncio.sleep(3600)
    return "late"


async def time_out(sample: Sample, reply: str) -> str:
    raise TimeoutError("its own")


def keep_a_set(sample: Sample, reply: str) -> None:
    sample.metadata["seen"] = {reply}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (raise_it, "KeyError: 'room'"),
        (exit_it, "SystemExit: bye"),
        (hang, "did not answer within 0.5 s (--environment-timeout-s) in turn 1"),
        (hang_async, "did not answer within 0.5 s"),
        (time_out, "TimeoutError: its own"),
        (keep_a_set, "metadata['seen']"),
        (lambda sample, reply: 7, "returned 7; return a text"),
        (lambda sample, reply: [], "returned []; return a text"),
        (lambda sample, reply: ["Sure?"], "the message 'Sure?'"),
        (lambda sample, reply: [{"role": "user", "content": 7}], "a text as content"),
        (lambda sample, reply: [{"role": "assistant", "content": "7"}], "speaks as 'assistant'"),
    ],
)
def test_an_environment_that_fails_fails_its_sample_with_the_reason(
    template: ChatTemplate, environment: Callable[..., Any], said: str
) -> None:
    sample = pending()
    generate = multi_turn(outside(environment), lambda: template, 8, 0.5)

    async def no_score(group: Group) -> None: ...

    asyncio.run(produce(Group(0, [sample]), generate, FakeEngine("7"), no_score, SAMPLING))
    assert sample.status is Status.FAILED
    assert said in sample.reason


def test_a_sample_is_tried_again_from_its_own_metadata(template: ChatTemplate) -> None:
    tries: list[Any] = []

    def fail_once(sample: Sample, reply: str) -> None:
        tries.append(sample.metadata.get("touched"))
        sample.metadata["touched"] = True
        if len(tries) == 1:
            raise ConnectionError("lost")

    sample = pending()
    generate = multi_turn(outside(fail_once), lambda: template, 8, 30)

    async def no_score(group: Group) -> None: ...

    asyncio.run(produce(Group(0, [sample]), generate, FakeEngine("7"), no_score, SAMPLING, retries=1))
    assert (sample.status, tries) == (Status.COMPLETED, [None, None])


def test_a_template_that_renders_nothing_behind_a_reply_is_an_error_that_says_so() -> None:
    class Silent(PlainTemplate):
        def tail(self, *arguments: Any) -> Any:
            return None

    with pytest.raises(SlimrlError, match=r"roles: user, assistant, user"):
        fill(Silent(None), ask_twice, FakeEngine("7"))


def test_options_are_checked_before_anything_starts(byte_checkpoint: Path, tmp_path: Path) -> None:
    def made(options: EnvironmentOptions, checkpoint: Path | None = byte_checkpoint) -> Any:
        return make(Options([options, CkptConfig(hf_checkpoint=checkpoint), RolloutConfig()]))

    with pytest.raises(UsageError, match="give --environment-path FILE"):
        made(EnvironmentOptions())
    with pytest.raises(UsageError, match=r"--environment-path .json:nothing.: .* has no .nothing."):
        made(EnvironmentOptions(environment_path="json:nothing"))
    with pytest.raises(UsageError, match="no function"):
        made(EnvironmentOptions(environment_path="json:__name__"))
    with pytest.raises(UsageError, match="--hf-checkpoint"):
        made(EnvironmentOptions(environment_path="json:loads"), None)
    with pytest.raises(ValueError, match="--max-turns 0 must be at least 1"):
        EnvironmentOptions(max_turns=0)
    with pytest.raises(ValueError, match="--environment-timeout-s 0 must be above 0"):
        EnvironmentOptions(environment_timeout_s=0)
    assert does_continue(made(EnvironmentOptions(environment_path="json:loads")))


def test_the_template_is_the_one_of_the_prompts_with_its_variables(byte_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "environment.py"
    file.write_text("def answer(sample, reply):\n    return 'Sure?' if reply == '8' else None\n")
    own = EnvironmentOptions(environment_path=f"{file}:answer")
    for rollout, between in (
        (RolloutConfig(), "Sure?"),
        (RolloutConfig(apply_chat_template=True), "\n<user\nSure?>\n<assistant\n"),
        (
            RolloutConfig(apply_chat_template=True, apply_chat_template_kwargs='{"add_generation_prompt": false}'),
            "\n<user\nSure?>\n",
        ),
    ):
        generate = make(Options([own, CkptConfig(hf_checkpoint=byte_checkpoint), rollout]))
        sample = pending()
        asyncio.run(generate(sample, SAMPLING, FakeEngine(["8", "7"])))
        assert parts(sample) == [(1, "8>"), (0, between), (1, "7>")]


@pytest.mark.parametrize("rule", CHECKS, ids=lambda rule: rule.name)
@pytest.mark.parametrize("environment", [doubt, lambda sample, reply: None], ids=["many turns", "one turn"])
def test_it_does_what_every_generator_must(template: ChatTemplate, rule: Any, environment: Callable[..., Any]) -> None:
    finding = rule.find(multi_turn(outside(environment), lambda: template, 4, 30))
    # an environment that never ends lets no answer of this engine end by itself
    assert finding.outcome == ("warning" if environment is doubt and rule.name == "status" else "ok"), finding.detail


def test_slimrl_check_finds_nothing_wrong_with_it(
    byte_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment.py").write_text("def over(sample, reply):\n    return None\n")
    flags = ["--environment-path", str(tmp_path / "environment.py:over"), "--hf-checkpoint", str(byte_checkpoint)]
    assert check.main(["multi_turn", *flags]) == 0
    assert "0 warnings, 0 failures\n" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--hf-checkpoint is for generators"):
        check.main(["math", *flags[2:]])


def test_the_example_can_only_be_won_in_two_turns(template: ChatTemplate) -> None:
    environment = load_function("--environment-path", f"{EXAMPLE}/environment.py:answer")
    score = load_function("--custom-rm-path", f"{EXAMPLE}/reward.py:score")
    row = json.loads((EXAMPLE / "train.jsonl").read_text().splitlines()[-1])

    def earned(*replies: str, max_turns: int = 2) -> float:
        sample = make_sample("", row["label"], row["metadata"], row["input"], status=Status.PENDING)
        return score(fill(template, environment, FakeEngine(replies), sample, max_turns=max_turns))

    assert (row["metadata"]["numbers"], row["label"]) == ([9, 9], 18)
    assert earned("9 + what?", "9 + 9 = 18") == 1.0
    assert earned("9 + what?", "9 + 9 = 19") == 0.0
    assert earned("9 + 9 = 18", "It is 18.") == earned("9 + 9 = 18. Right?", max_turns=1) == 0.0


def test_a_real_models_two_turns_have_the_log_probs_of_the_whole(small_model: Path) -> None:
    from slimrl.engines.embedded.engine import Engine
    from slimrl.engines.embedded.options import EngineOptions
    from slimrl.engines.embedded.params import Sampling
    from slimrl.engines.embedded.request import Request

    template = ChatTemplate.open(small_model)
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    sample = Sample(0, 0, 0, messages, template.render(messages, []), seed=3)
    engine = Engine(EngineOptions(small_model, random_seed=0))
    sent: list[list[int]] = []

    def run(input_ids: Sequence[int], num_new: int, seed: int, score_from: int | None = None) -> Request:
        request = Request("r", tuple(input_ids), Sampling(max_new_tokens=num_new), seed, score_from=score_from)
        engine.generate([request])
        return request

    class Client(FakeEngine):
        async def generate(self, input_ids: Sequence[int], sampling: SamplingParams, **kwargs: Any) -> Completion:
            sent.append(list(input_ids))
            done = run(input_ids, 6, sampling.sampling_seed or 0)
            text = template.text(done.output_ids)
            return Completion(done.output_ids, done.log_probs, [0] * len(done.output_ids), text, "stop")

    try:
        fill(template, doubt, Client(), sample, max_turns=2)
        whole = sample.prompt_tokens + sample.tokens
        scored = run(whole, 1, 0, len(sample.prompt_tokens)).input_log_probs
    finally:
        engine.close()
    assert sent[0] == sample.prompt_tokens
    assert sent[1] == whole[: len(sent[1])]
    assert f"<|im_end|>{BETWEEN.format('No.')}" in "".join(template.token_text(token) for token in whole)
    pairs = zip(sample.log_probs, scored, sample.loss_mask, strict=True)
    assert max(abs(said - again) for said, again, mask in pairs if mask) < 1e-4
