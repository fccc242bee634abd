"""Tokens per CPU second of the embedded engine against transformers' generate, on the same prompts in one run.

SmolLM2-135M in float32, chat prompts of about 39 tokens, 32 new tokens each at temperature 1, two threads. Both run in
this process; CPU seconds are the process's, without loading. transformers is given what it is best with: left-padded
batches, its default cache, num_return_sequences for groups.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slimrl import hub
from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.options import EngineOptions
from slimrl.engines.embedded.params import Sampling
from slimrl.engines.embedded.request import Request

NEW_TOKENS = 32


Run = Callable[["Load", int], None]
"""Generate a load's tokens from a seed."""


@dataclass(frozen=True)
class Load:
    """Some prompts, each answered `num_each` times."""

    name: str
    prompts: Sequence[list[int]]
    num_each: int
    target: float
    """The ratio that is wanted."""

    @property
    def num_tokens(self) -> int:
        """New tokens of all responses."""
        return len(self.prompts) * self.num_each * NEW_TOKENS


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts, for each")
    parser.add_argument("--deterministic", action="store_true", help="also measure deterministic inference")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = hub.fetch("smollm2-135m")
    loads = make_loads(folder)
    engine = Engine(EngineOptions(folder, device="cpu", dtype="float32"))
    runs: dict[str, Run] = {"engine": with_engine(engine), "generate": with_transformers(folder)}
    if options.deterministic:
        invariant = Engine(EngineOptions(folder, device="cpu", dtype="float32", deterministic=True))
        runs["deterministic"] = with_engine(invariant)
    print(f"tokens per CPU second, {options.threads} threads, best of {options.rounds} rounds")
    print(f"{'':26}" + "".join(f"{name:>15}" for name in runs) + f"{'ratio':>8}{'wanted':>8}")
    for load in loads:
        # one request is over in two seconds and feels every disturbance
        speeds = measure(load, runs, options.rounds * (1 if load.num_tokens > 1000 else 5))
        ratio = speeds["engine"] / speeds["generate"]
        cells = "".join(f"{speed:15.1f}" for speed in speeds.values())
        print(f"{load.name:26}{cells}{ratio:8.2f}{load.target:8.1f}", flush=True)
    engine.close()
    if options.deterministic:
        invariant.close()


def make_loads(folder: Path) -> list[Load]:
    """Sums in the model's chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"What is {first} + {second}?"}], add_generation_prompt=True, return_dict=False
        )
        for first in range(1, 9)
        for second in range(1, 9)
    ]
    return [
        Load("64 requests, groups of 8", prompts[::9], 8, 2.0),
        Load("64 distinct prompts", prompts, 1, 1.3),
        Load("one request", prompts[:1], 1, 1.2),
    ]


def with_engine(engine: Engine) -> Run:
    """All requests of a load at once."""

    def run(load: Load, seed: int) -> None:
        sampling = Sampling(max_new_tokens=NEW_TOKENS, ignore_eos=True)
        requests = [
            Request(f"{index}-{copy}", tuple(prompt), sampling, seed=seed + index * load.num_each + copy)
            for index, prompt in enumerate(load.prompts)
            for copy in range(load.num_each)
        ]
        engine.generate(requests)
        assert all(len(request.output_ids) == NEW_TOKENS for request in requests)

    return run


def with_transformers(folder: Path) -> Run:
    """One call of generate for a load."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(load: Load, seed: int) -> None:
        torch.manual_seed(seed)
        width = max(map(len, load.prompts))
        ids = torch.tensor([[2] * (width - len(prompt)) + prompt for prompt in load.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in load.prompts])
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=load.num_each,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=2,
            )
        assert output.shape == (len(load.prompts) * load.num_each, width + NEW_TOKENS)

    return run


def measure(load: Load, runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Tokens per CPU second in the best of some rounds; the contestants take turns and meet the same noise."""
    best_s = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run(Load("warm-up", load.prompts[:1], 1, 0.0), 0)
    for seed in range(rounds):
        for name, run in runs.items():
            start_s = time.process_time()
            run(load, 1 + 1000 * seed)
            best_s[name] = min(best_s[name], time.process_time() - start_s)
    return {name: load.num_tokens / seconds for name, seconds in best_s.items()}


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the server does, and before torch is loaded; both sides gain
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
