"""The generator multi_turn, and the conversation that it holds: what is sent, what is trained on, how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slimrl import (
    ChatTemplate,
    Completion,
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
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.generator_checks import CHECKS
from slimrl.testing.samples import make_sample
from slimrl.traits import does_continue
from slimrl_generators.multi_turn import EnvironmentOptions, make, multi_turn
from slimrl_generators.user_function import load_function, outside

EXAMPLE = Path(__file__).parents[2] / "examples/multi_turn"
BETWEEN = "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def test_only_what_the_model_wrote_is_trained_on(conversation: Any, template: ChatTemplate) -> None:
    sample = conversation.fill(template, conversation.ask_twice, FakeEngine(["It is 8.", "7"]))
    assert conversation.parts(sample) == [(1, "It is 8.>"), (0, "\n<user\nSure?>\n<assistant\n"), (1, "7>")]
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


def test_each_request_is_the_tokens_that_are_there(conversation: Any, template: ChatTemplate) -> None:
    engine = FakeEngine(seed=4)
    sample = conversation.fill(template, conversation.doubt, engine, max_turns=3)
    whole = sample.prompt_tokens + sample.tokens
    begins = [i for i, mask in enumerate(sample.loss_mask) if mask and (i == 0 or not sample.loss_mask[i - 1])]
    assert [list(request.input_ids) for request in engine.requests] == [
        whole[: len(sample.prompt_tokens) + begin] for begin in begins
    ]
    assert len({request.sampling.sampling_seed for request in engine.requests}) == len(begins) > 1


def test_a_reply_that_is_cut_gets_the_end_of_its_turn_before_the_next(
    conversation: Any, template: ChatTemplate
) -> None:
    class Stopping(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Completion:
            found = await super().generate(*args, **kwargs)
            return Completion(found.tokens[:-1], found.log_probs[:-1], found.weight_versions[:-1], found.text, "stop")

    sample = conversation.fill(template, conversation.ask_twice, Stopping(["It is 8.", "7"]))
    assert conversation.parts(sample)[:2] == [(1, "It is 8."), (0, ">\n<user\nSure?>\n<assistant\n")]


def test_without_a_chat_template_what_is_told_is_plain_text(conversation: Any, byte_checkpoint: Path) -> None:
    sample = conversation.fill(
        PlainTemplate.open(byte_checkpoint), conversation.ask_twice, FakeEngine(["It is 8.", "7"])
    )
    assert conversation.parts(sample) == [(1, "It is 8.>"), (0, "Sure?"), (1, "7>")]
    assert sample.response == "It is 8.Sure?7"


def test_several_messages_with_roles_are_told_at_once(conversation: Any, template: ChatTemplate) -> None:
    def told(sample: Sample, reply: str) -> list[dict[str, str]] | None:
        tools = [{"role": "tool", "content": "3"}, {"role": "user", "content": "And?"}]
        return tools if reply == "It is 8." else None

    sample = conversation.fill(template, told, FakeEngine(["It is 8.", "7"]))
    assert conversation.parts(sample)[1] == (0, "\n<tool\n3>\n<user\nAnd?>\n<assistant\n")


def test_all_replies_together_keep_to_the_budget(conversation: Any, template: ChatTemplate) -> None:
    sampling = SamplingParams(max_new_tokens=12, sampling_seed=7)
    engine = FakeEngine("It is 8.")
    sample = conversation.fill(template, conversation.doubt, engine, sampling=sampling)
    assert [request.sampling.max_new_tokens for request in engine.requests] == [12, 3]
    assert (sum(sample.loss_mask), sample.loss_mask[-1], sample.status) == (12, 1, Status.TRUNCATED)


def test_a_budget_that_is_spent_to_the_last_token_ends_without_words_for_nobody(
    conversation: Any, template: ChatTemplate
) -> None:
    sample = conversation.fill(
        template, conversation.doubt, FakeEngine("It is 8."), sampling=SamplingParams(max_new_tokens=9)
    )
    assert (conversation.parts(sample), sample.status) == ([(1, "It is 8.>")], Status.TRUNCATED)


@pytest.mark.parametrize(("room", "turns"), [(13, 0), (14, 0), (14 + 9 + 23, 1), (14 + 9 + 24, 2), (200, 3)])
def test_prompt_and_response_keep_to_the_context(
    conversation: Any, template: ChatTemplate, room: int, turns: int
) -> None:
    """The prompt has 14 tokens, a reply 9, what is told in between 23."""
    sampling = SamplingParams(max_new_tokens=60, max_context_len=room)
    sample = conversation.fill(template, conversation.doubt, FakeEngine("It is 8."), sampling=sampling, max_turns=3)
    assert len(sample.prompt_tokens) + len(sample.tokens) <= max(room, 14)
    assert sum(m["role"] == "assistant" for m in sample.metadata["multi_turn"]["messages"]) == turns
    assert sample.loss_mask[-1:] in ([], [1])
    assert sample.status is Status.TRUNCATED


def test_the_environment_sees_a_reply_that_was_cut_and_the_last_one(conversation: Any, template: ChatTemplate) -> None:
    seen: list[tuple[str, Status]] = []

    def watch(sample: Sample, reply: str) -> str:
        seen.append((reply, sample.status))
        return "Go on."

    sample = conversation.fill(template, watch, FakeEngine("It is 8."), max_turns=2)
    assert (sample.status, conversation.parts(sample)[-1]) == (Status.TRUNCATED, (1, "It is 8.>"))
    conversation.fill(template, watch, FakeEngine("It is 8."), sampling=SamplingParams(max_new_tokens=5))
    assert seen == [
        ("It is 8.", Status.COMPLETED),
        ("It is 8.", Status.COMPLETED),
        ("It is", Status.TRUNCATED),
    ]


def test_an_empty_reply_is_answered_too(conversation: Any, template: ChatTemplate) -> None:
    assert conversation.parts(conversation.fill(template, conversation.ask_twice, FakeEngine(["", "7"])))[0] == (1, ">")


def test_a_template_that_renders_nothing_behind_a_reply_is_an_error_that_says_so(conversation: Any) -> None:
    class Silent(PlainTemplate):
        def tail(self, *arguments: Any) -> Any:
            return None

    with pytest.raises(SlimrlError, match=r"roles: user, assistant, user"):
        conversation.fill(Silent(None), conversation.ask_twice, FakeEngine("7"))


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


def test_the_template_is_the_one_of_the_prompts_with_its_variables(
    conversation: Any, byte_checkpoint: Path, tmp_path: Path
) -> None:
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
        sample = conversation.pending()
        asyncio.run(generate(sample, conversation.SAMPLING, FakeEngine(["8", "7"])))
        assert conversation.parts(sample) == [(1, "8>"), (0, between), (1, "7>")]


@pytest.mark.parametrize("rule", CHECKS, ids=lambda rule: rule.name)
@pytest.mark.parametrize("goes_on", [True, False], ids=["many turns", "one turn"])
def test_it_does_what_every_generator_must(conversation: Any, template: ChatTemplate, rule: Any, goes_on: bool) -> None:
    environment = conversation.doubt if goes_on else lambda sample, reply: None
    finding = rule.find(multi_turn(outside(environment), lambda: template, 4, 30))
    # an environment that never ends lets no answer of this engine end by itself
    assert finding.outcome == ("warning" if goes_on and rule.name == "status" else "ok"), finding.detail


def test_slimrl_check_finds_nothing_wrong_with_it(
    byte_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment.py").write_text("def over(sample, reply):\n    return None\n")
    flags = ["--environment-path", str(tmp_path / "environment.py:over"), "--hf-checkpoint", str(byte_checkpoint)]
    assert check.main(["multi_turn", *flags]) == 0
    assert "0 warnings, 0 failures\n" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--hf-checkpoint is for generators"):
        check.main(["math", *flags[2:]])


def test_the_example_can_only_be_won_in_two_turns(conversation: Any, template: ChatTemplate) -> None:
    environment = load_function("--environment-path", f"{EXAMPLE}/environment.py:answer")
    score = load_function("--custom-rm-path", f"{EXAMPLE}/reward.py:score")
    row = json.loads((EXAMPLE / "train.jsonl").read_text().splitlines()[-1])

    def earned(*replies: str, max_turns: int = 2) -> float:
        sample = make_sample("", row["label"], row["metadata"], row["input"], status=Status.PENDING)
        return score(conversation.fill(template, environment, FakeEngine(replies), sample, max_turns=max_turns))

    assert (row["metadata"]["numbers"], row["label"]) == ([9, 9], 18)
    assert earned("9 + what?", "9 + 9 = 18") == 1.0
    assert earned("9 + what?", "9 + 9 = 19") == 0.0
    assert earned("9 + 9 = 18", "It is 18.") == earned("9 + 9 = 18. Right?", max_turns=1) == 0.0


def test_a_real_models_two_turns_have_the_log_probs_of_the_whole(conversation: Any, small_model: Path) -> None:
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
        conversation.fill(template, conversation.doubt, Client(), sample, max_turns=2)
        whole = sample.prompt_tokens + sample.tokens
        scored = run(whole, 1, 0, len(sample.prompt_tokens)).input_log_probs
    finally:
        engine.close()
    assert sent[0] == sample.prompt_tokens
    assert sent[1] == whole[: len(sent[1])]
    assert f"<|im_end|>{BETWEEN.format('No.')}" in "".join(template.token_text(token) for token in whole)
    pairs = zip(sample.log_probs, scored, sample.loss_mask, strict=True)
    assert max(abs(said - again) for said, again, mask in pairs if mask) < 1e-4
