"""TRL's side of trl_step.py: GRPOTrainer over given prompts, in TRL's own environment.

Reads a JSON file of settings and rows, writes one JSON line a step: CPU seconds of this process and all its
descendants, wall seconds, mean reward, the share of samples that differ from the others of their group.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slimrl import Sample, Status
from slimrl.observe.cpu import ProcessMeter


def main() -> None:
    """Train and write the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    settings = json.loads(options.settings.read_text())

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(settings["num_threads"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "label": row["label"]} for row in settings["rows"]]
    for row, given in zip(rows, settings["rows"], strict=True):
        tokens = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        assert tokens == given["tokens"], "the prompts of both differ"
    rewards: list[float] = []
    num_distinct: list[int] = []
    reward = reward_function(Path(settings["reward"]), tokenizer.eos_token_id, rewards, num_distinct)

    class Steps(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
        """Writes a line a step."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.meter = ProcessMeter()

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.cpu_s, self.wall_s = sum(self.meter.cpu_seconds().values()), time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            line = {
                "step": state.global_step,
                "cpu_s": sum(self.meter.cpu_seconds().values()) - self.cpu_s,
                "wall_s": time.perf_counter() - self.wall_s,
                "reward": sum(rewards) / len(rewards),
                "distinct": sum(num_distinct) / len(rewards),
            }
            rewards.clear()
            num_distinct.clear()
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32),
            processing_class=tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_list(rows),
            args=GRPOConfig(output_dir=folder, **settings["grpo"]),
            callbacks=[Steps()],
        )
        trainer.train()


def reward_function(
    path: Path, stop_token: int, rewards: list[float], num_distinct: list[int]
) -> Callable[..., list[float]]:
    """The example's reward in the shape that TRL calls; keeps what it returned."""
    spec = importlib.util.spec_from_file_location("example_reward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def score(
        completions: Sequence[list[dict[str, str]]],
        completion_ids: Sequence[list[int]],
        label: Sequence[str],
        **rest: Any,  # what else TRL passes
    ) -> list[float]:
        scores = []
        for messages, tokens, target in zip(completions, completion_ids, label, strict=True):
            status = Status.COMPLETED if tokens[-1] == stop_token else Status.TRUNCATED
            response = messages[0]["content"]
            scores.append(module.score(sample_of(response, target, status)))
        rewards.extend(scores)
        num_distinct.append(
            len({(str(prompt), *tokens) for prompt, tokens in zip(rest["prompts"], completion_ids, strict=True)})
        )
        return scores

    return score


def sample_of(response: str, label: str, status: Status) -> Sample:
    """A sample of which the reward reads these three."""
    return Sample(
        group_id=0,
        sample_id=0,
        rollout_id=0,
        prompt="",
        prompt_tokens=[],
        label=label,
        response=response,
        status=status,
    )


if __name__ == "__main__":
    main()
