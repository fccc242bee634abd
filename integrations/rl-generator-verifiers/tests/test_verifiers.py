from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import playing
import pytest
from rl_generator_verifiers.__main__ import main
from rl_generator_verifiers.stage import Stage

from slimrl import Sample, SamplingParams, Status, UsageError
from slimrl.testing import FakeEngine, conformance, make_sample, score

SAMPLING = SamplingParams(max_new_tokens=100, sampling_seed=7)
HINTS = Path(__file__).with_name("hints.toml")

test_the_generator_conforms = conformance("generator", f"{Path(__file__).with_name('playing.py')}:generate")


def pending(index: int = 0) -> Sample:
    prompt = f"What is {index + 3} + 4?"
    return make_sample("", None, {"verifiers": {"index": index}}, prompt, status=Status.PENDING)


def play(sample: Sample, engine: FakeEngine, env: str = "sums_env", sampling: SamplingParams = SAMPLING) -> Sample:
    return asyncio.run(playing.make(env)(sample, sampling, engine))


def test_one_turn_is_judged_by_the_environments_rewards() -> None:
    sample = play(pending(), FakeEngine("It is 7."))
    assert (sample.response, sample.status) == ("It is 7.", Status.COMPLETED)
    outcome = score("verifiers", sample)
    assert (outcome.status, outcome.value) == ("scored", 1.5)
    assert outcome.components == {"correct": 1.0, "first_try": 0.5, "turns": 1.0, "score": 1.5}
    assert score("verifiers", play(pending(1), FakeEngine("It is 7."))).value == 0.5


def test_what_the_environment_says_between_turns_is_not_trained_on() -> None:
    engine = FakeEngine(["It is 8.", "Then 7."])
    sample = play(pending(), engine, str(HINTS))
    asked = [bytes(request.input_ids) for request in engine.requests]
    assert asked == [b"What is 3 + 4?", b"What is 3 + 4?It is 8.\0No. Try again."]
    assert bytes(sample.tokens) == b"It is 8.\0No. Try again.Then 7.\0"
    trained = bytes(token for token, mask in zip(sample.tokens, sample.loss_mask, strict=True) if mask)
    assert trained == b"It is 8.\0Then 7.\0"
    assert score("verifiers", sample).components["turns"] == 2.0
    assert score("verifiers", sample).value == 1.0


def test_an_aborted_second_turn_goes_on_with_the_first_as_it_was() -> None:
    helper = FakeEngine()

    def abort(ids: object, sampling: SamplingParams) -> object:
        if len(engine.requests) == 1:
            return "It is 8."
        return helper.completion(list(engine.requests[-1].input_ids), "Th", sampling, "abort")

    engine = FakeEngine(abort)
    sample = play(pending(), engine, str(HINTS))
    assert (sample.status, bytes(sample.tokens)) == (Status.ABORTED, b"It is 8.\0No. Try again.Th")
    assert score("verifiers", sample).status == "error"
    sample = pickled(sample)
    later = FakeEngine(["en 7."], weight_version=2)
    play(sample, later, str(HINTS))
    assert (sample.status, bytes(sample.tokens)) == (Status.COMPLETED, b"It is 8.\0No. Try again.Then 7.\0")
    assert len(later.requests) == 1
    assert sample.weight_versions[-6:] == [2] * 6
    assert sample.weight_versions[0] == 1
    assert score("verifiers", sample).value == 1.0


def pickled(sample: Sample) -> Sample:
    """As a checkpoint keeps it: metadata is JSON."""
    sample.metadata = json.loads(json.dumps(sample.metadata))
    return sample


def test_a_judge_that_raises_leaves_the_sample_unscored() -> None:
    sample = play(pending(), FakeEngine("raise"))
    assert sample.status is Status.COMPLETED
    outcome = score("verifiers", sample)
    assert (outcome.status, outcome.value) == ("error", None)
    assert "the judge broke" in outcome.reason


def test_a_model_that_has_written_all_it_may_ends_the_episode() -> None:
    sample = play(pending(), FakeEngine("8 " * 50), str(HINTS), SamplingParams(max_new_tokens=10))
    assert (sample.status, sum(sample.loss_mask)) == (Status.TRUNCATED, 10)
    assert score("verifiers", sample).value == 0.5


def test_a_row_of_another_file_fails_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="python -m rl_generator_verifiers"):
        play(make_sample("", status=Status.PENDING), FakeEngine("7"))
    assert score("verifiers", make_sample("7")).status == "error"


def test_a_task_that_changed_since_the_file_was_written_fails() -> None:
    sample = pending()
    sample.metadata["verifiers"]["key"] = "0" * 64
    with pytest.raises(ValueError, match="not the one"):
        play(sample, FakeEngine("7"))


def test_the_prompt_file_holds_every_task(tmp_path: Path) -> None:
    assert main(["--env", "sums_env", "--size", "100", "--output", str(tmp_path / "f.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [row["input"][0]["content"] for row in rows] == [f"What is {x} + 4?" for x in range(3, 7)]
    assert [row["metadata"]["verifiers"]["index"] for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("env", ["", "no_such_env", "nowhere.toml"])
def test_an_environment_that_does_not_exist_is_told(env: str) -> None:
    with pytest.raises(UsageError, match=r"verifiers"):
        Stage(env)


def test_an_environment_of_two_agents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text('id = "user-sim"\n[taskset]\nid = "sums_env"\n')
    with pytest.raises(UsageError, match="has the agents assistant, user"):
        Stage(str(tmp_path / "two.toml"))


def test_an_environment_with_tools_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tools_env.py").write_text(
        "import verifiers.v1 as vf\n"
        "from sums_env import SumTask\n"
        "class Search(vf.Toolset[vf.ToolsetConfig]):\n"
        "    @vf.tool\n"
        "    async def search(self, word: str) -> str:\n"
        "        'Looks a word up.'\n"
        "        return word\n"
        "class Searching(SumTask):\n"
        "    @classmethod\n"
        "    def toolsets(cls, config):\n"
        "        return [Search(vf.ToolsetConfig())]\n"
        "class Tasks(vf.Taskset[Searching]):\n"
        "    def load(self):\n"
        "        return iter(())\n"
        "__all__ = ['Tasks']\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(UsageError, match="has tools"):
            Stage("tools_env")
    finally:
        sys.path.remove(str(tmp_path))
