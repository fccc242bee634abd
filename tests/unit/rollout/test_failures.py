"""Failed samples are counted by what failed, and told with reason and ids."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from slimrl.errors import EngineError, EnginesLostError, EngineUnreachableError, SlimrlError
from slimrl.observe.run_dir import RunDir
from slimrl.rollout.events import tell_outcomes
from slimrl.rollout.failures import failure_kind, failure_metrics, find_failures
from slimrl.rollout.produce import produce
from slimrl.testing import FakeEngine
from slimrl.types import Group, Sample, SamplingParams, Status


class HTTPToolError(Exception):
    pass


ERRORS: dict[int, Exception] = {
    0: EngineUnreachableError("no engine"),
    1: TimeoutError("too late"),
    2: SlimrlError("the agent ended without a reply"),
    3: ValueError("no number"),
    4: ValueError("no number"),
    5: HTTPToolError("503"),
}


def produced() -> Group:
    samples = [Sample(0, i, i, "p", [1]) for i in range(8)]

    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        if sample.sample_id in ERRORS:
            raise ERRORS[sample.sample_id]
        sample.status, sample.reason = (Status.FAILED, "gave up") if sample.sample_id == 6 else (Status.COMPLETED, "")
        return sample

    async def score(group: Group) -> None:
        pass

    return asyncio.run(produce(Group(0, samples), generate, FakeEngine(), score, SamplingParams(4), retries=1))


def test_failures_are_counted_by_what_failed() -> None:
    assert failure_metrics([produced()], "rollout/") == {
        "rollout/failed_samples": 7.0,
        "rollout/failed_engine": 1.0,
        "rollout/failed_timeout": 1.0,
        "rollout/failed_generator": 2.0,
        "rollout/failed_value_error": 2.0,
        "rollout/failed_http_tool_error": 1.0,
    }
    assert set(failure_metrics([], "eval/s-").values()) == {0.0}


def test_an_event_names_generator_reason_count_and_samples(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    tell_outcomes(run, [produced()], "mine.py:generate", step=3)
    (event,) = map(json.loads, run.events.read_text().splitlines())
    assert (event["event"], event["step"], event["generator"]) == ("failed", 3, "mine.py:generate")
    assert event["outcomes"][0] == {
        "kind": "value_error",
        "reason": "ValueError: no number",
        "count": 2,
        "samples": [3, 4],
    }
    assert {"kind": "generator", "reason": "gave up", "count": 1, "samples": [6]} in event["outcomes"]


def test_the_number_of_kinds_is_bounded() -> None:
    def failed(i: int) -> Sample:
        return Sample(0, i, i, "p", [1], status=Status.FAILED, failure=f"strange_{i % 20}")

    metrics = failure_metrics([Group(0, [failed(i) for i in range(30)])], "rollout/")
    assert len(metrics) == 1 + 3 + 8 + 1
    assert metrics["rollout/failed_other"] == 30 - 8 * 2
    assert sum(metrics.values()) == 2 * 30
    assert len(find_failures([Group(0, [failed(i) for i in range(30)])])) == 20


def test_a_try_that_succeeds_leaves_no_failure_behind() -> None:
    tries: list[int] = []

    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        tries.append(sample.sample_id)
        if len(tries) == 1:
            raise OSError("the tool broke")
        sample.status = Status.COMPLETED
        return sample

    async def score(group: Group) -> None:
        pass

    group = Group(0, [Sample(0, 0, 0, "p", [1])])
    asyncio.run(produce(group, generate, FakeEngine(), score, SamplingParams(4), retries=1))
    assert (group.samples[0].failure, group.samples[0].reason) == ("", "")


def test_a_run_without_any_engine_ends_instead_of_failing_every_sample() -> None:
    async def generate(sample: Sample, sampling: SamplingParams, engine: Any) -> Sample:
        raise EnginesLostError("none is left")

    async def score(group: Group) -> None:
        pass

    with pytest.raises(EnginesLostError):
        asyncio.run(produce(Group(0, [Sample(0, 0, 0, "p", [1])]), generate, FakeEngine(), score, SamplingParams(4), 1))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError(""), "engine"),
        (KeyError("x"), "key_error"),
        (RecursionError(), "recursion_error"),
        (json.JSONDecodeError("", "", 0), "json_decode_error"),
        (OSError(), "os_error"),
    ],
)
def test_a_kind_is_a_metrics_suffix(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind
