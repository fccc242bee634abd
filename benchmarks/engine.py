"""Tokens per CPU second of the embedded engine against transformers' generate, on the same prompts in one run.

SmolLM2-135M in float32, chat prompts of about 39 tokens, 32 new tokens each at temperature 1, two threads. Both run in
this process; CPU seconds are the process's, loading excluded. transformers is given what it is best with: left-padded
batches, its default cache, num_return_sequences for groups.
"""

from __future__ import annotations

import argparse
import gc
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
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts, for both")
    parser.add_argument("--deterministic", action="store_true", help="also measure deterministic inference")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = hub.fetch("smollm2-135m")
    loads = make_loads(folder)
    ours = with_engine(folder, loads, options.rounds, deterministic=False)
    invariant = with_engine(folder, loads, 1, deterministic=True) if options.deterministic else None
    theirs = with_transformers(folder, loads, options.rounds)
    print(f"\ntokens per CPU second, {options.threads} threads, best of {options.rounds}")
    print(f"{'load':28}{'engine':>9}{'generate':>10}{'ratio':>8}{'wanted':>8}")
    for index, load in enumerate(loads):
        ratio = ours[index] / theirs[index]
        print(f"{load.name:28}{ours[index]:9.1f}{theirs[index]:10.1f}{ratio:8.2f}{load.target:8.1f}")
        if invariant is not None:
            print(f"{'  deterministic':28}{invariant[index]:9.1f}{'':10}{invariant[index] / theirs[index]:8.2f}")


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


def with_engine(folder: Path, loads: Sequence[Load], rounds: int, *, deterministic: bool) -> list[float]:
    """Tokens per CPU second of each load."""
    engine = Engine(EngineOptions(folder, device="cpu", dtype="float32", deterministic=deterministic))

    def run(load: Load, seed: int) -> None:
        sampling = Sampling(max_new_tokens=NEW_TOKENS, ignore_eos=True)
        requests = [
            Request(f"{index}-{copy}", tuple(prompt), sampling, seed=seed + index * load.num_each + copy)
            for index, prompt in enumerate(load.prompts)
            for copy in range(load.num_each)
        ]
        engine.generate(requests)
        assert all(len(request.output_ids) == NEW_TOKENS for request in requests)

    try:
        return [measure(load, run, rounds) for load in loads]
    finally:
        engine.close()
        gc.collect()


def with_transformers(folder: Path, loads: Sequence[Load], rounds: int) -> list[float]:
    """Tokens per CPU second of each load."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(load: Load, seed: int) -> None:
        torch.manual_seed(seed)
        width = max(map(len, load.prompts))
        ids = torch.tensor([[2] * (width - len(prompt)) + prompt for prompt in load.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in load.prompts])
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

    with torch.inference_mode():
        return [measure(load, run, rounds) for load in loads]


def measure(load: Load, run: Callable[[Load, int], None], rounds: int) -> float:
    """Tokens per CPU second in the best of some rounds, after a short warm-up."""
    run(Load("warm-up", load.prompts[:1], 1, 0.0), 0)
    best_s = float("inf")
    for seed in range(rounds):
        start_s = time.process_time()
        run(load, 1 + 1000 * seed)
        best_s = min(best_s, time.process_time() - start_s)
    return load.num_tokens / best_s


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the server does, and before torch is loaded; both sides gain
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
