"""The example of tool_use: its data, its reward, and a real model that wins."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimrl import (
    ChatTemplate,
    Completion,
    Sample,
    SamplingParams,
    Status,
    load_target,
)
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.samples import make_sample
from slimrl_generators.tool_use import ToolUseOptions, tool_use
from slimrl_generators.tools import Tool

EXAMPLE = Path(__file__).parents[2] / "examples" / "tool_use"
SAMPLING = SamplingParams(max_new_tokens=400, sampling_seed=7)


def answer(python: Tool, template: ChatTemplate, engine: FakeEngine, sample: Sample) -> Sample:
    """Answers with one call at most."""
    generate = tool_use([python], lambda: template, ToolUseOptions(tool_format="python", max_tool_turns=1))
    found = asyncio.run(generate(sample, SAMPLING, engine))
    assert isinstance(found, Sample)
    return found


def example(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLE / f"{name}.jsonl").read_text().splitlines()]


def test_the_examples_data_is_what_its_script_writes_and_asks_nothing_twice() -> None:
    before = example("train"), example("test")
    subprocess.run([sys.executable, str(EXAMPLE / "make_data.py")], check=True, timeout=60)
    assert (example("train"), example("test")) == before
    questions = [row["input"][-1]["content"] for row in before[0] + before[1]]
    assert len(set(questions)) == len(questions)


def test_the_example_can_only_be_won_with_a_call(python: Tool, template: ChatTemplate) -> None:
    _, score = load_target(f"{EXAMPLE}/reward.py:score", "--custom-rm-path")

    def earned(*replies: str) -> float:
        sample = make_sample("", 1035, {}, "What is 23 * 45?", status=Status.PENDING)
        return score(answer(python, template, FakeEngine(replies), sample))

    assert earned("```python\nprint(23 * 45)\n```", "It is 1035") == 1.0
    assert earned("```python\nprint(23 * 45)\n```", "It is 1036") == 0.0
    assert earned("It is 1035") == earned("```python\n1035", "```python\n1035") == 0.0


def test_a_real_model_works_products_out_in_python(small_model: Path, python: Tool) -> None:
    from slimrl.engines.embedded.engine import Engine
    from slimrl.engines.embedded.options import EngineOptions
    from slimrl.engines.embedded.params import Sampling
    from slimrl.engines.embedded.request import Request

    template = ChatTemplate.open(small_model)
    engine = Engine(EngineOptions(small_model, random_seed=0))

    class Client(FakeEngine):
        async def generate(self, input_ids: Sequence[int], sampling: SamplingParams, **kwargs: Any) -> Completion:
            request = Request("r", tuple(input_ids), Sampling(max_new_tokens=24, temperature=0.0), seed=0)
            engine.generate([request])
            tokens = request.output_ids
            return Completion(tokens, request.log_probs, [0] * len(tokens), template.text(tokens), "stop")

    _, score = load_target(f"{EXAMPLE}/reward.py:score", "--custom-rm-path")
    try:
        for row in example("test")[:3]:
            prompt_tokens = template.render(row["input"], [])
            sample = Sample(0, 0, 0, row["input"], prompt_tokens, row["label"], {})
            answer(python, template, Client(), sample)
            assert sample.prompt_tokens == prompt_tokens
            if score(sample) == 1.0:
                break
    finally:
        engine.close()
    assert score(sample) == 1.0
