"""Tokens per CPU second of the trainer against transformers and torch, on the same batches in one run.

SmolLM2-135M in float32, the demo's batch: 8 chat prompts of about 39 tokens, 8 responses of 12 tokens each, sampled
from the model. Tokens are those of all samples, prompt and response. Both make one GRPO step with AdamW in this
process; CPU seconds are the process's, loading excluded. transformers is given what it is best with: right-padded
batches with torch's attention, logits of the responses only, a fused AdamW. On
a machine with other work, OMP_WAIT_POLICY=passive keeps threads that wait from being counted.
"""

from __future__ import annotations

import argparse
import gc
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimrl import hub
from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig
from slimrl.types import TrainBatch

NEW_TOKENS = 12
ADAM = OptimizerConfig(lr=1e-6, adam_beta2=0.95, weight_decay=0.0)
SPLIT = ("pack", "log_probs", "forward_backward", "optimizer")


@dataclass(frozen=True)
class Load:
    """One batch under a name."""

    name: str
    batch: TrainBatch


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="the best of so many counts, for both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = hub.fetch("smollm2-135m")
    model, loads = with_responses(folder)
    theirs = with_transformers(model, loads, options.rounds)
    del model
    gc.collect()
    ours = with_trainer(folder, loads, options.rounds)
    print(f"\n{options.threads} threads, best of {options.rounds}; seconds are CPU seconds of one step")
    print(f"{'batch':34}{'tokens':>8}{'computed':>10}{'trainer s':>11}{'torch s':>9}{'ratio':>7}")
    for load, (seconds, metrics), their_seconds in zip(loads, ours, theirs, strict=True):
        computed = metrics["train/num_computed_tokens"]
        ratio = their_seconds / seconds
        print(
            f"{load.name:34}{len(load.batch.tokens):8}{computed:10.0f}{seconds:11.2f}{their_seconds:9.2f}{ratio:7.2f}"
        )
    print(f"\n{'wall seconds':34}" + "".join(f"{name:>18}" for name in SPLIT))
    for load, (_, metrics) in zip(loads, ours, strict=True):
        print(f"{load.name:34}" + "".join(f"{metrics[f'perf/train_{name}_s']:18.3f}" for name in SPLIT))


def with_responses(folder: Path) -> tuple[Any, list[Load]]:
    """The model of transformers and batches of what it answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    prompts, responses, rewards = [], [], []
    for first, second in [(1, 2), (3, 4), (5, 1), (2, 2), (7, 2), (6, 3), (4, 5), (8, 1)]:
        chat = [{"role": "user", "content": f"What is {first} + {second}?"}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=True,
            top_k=0,
            num_return_sequences=8,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            pad_token_id=2,
        )
        for response in output[:, len(prompt) :].tolist():
            numbers = re.findall(r"\d+", tokenizer.decode(response))
            prompts.append(prompt)
            responses.append(response)
            rewards.append(float(bool(numbers) and int(numbers[-1]) == first + second))
    ramp = (np.arange(64) % 8 - 3.5).tolist()
    rng = np.random.default_rng(0)
    distinct = [rng.integers(0, 49152, 39).tolist() for _ in range(16)]
    return model, [
        Load("as rewarded", make_batch(prompts, responses, group_advantages(rewards))),
        Load("every sample counts", make_batch(prompts, responses, ramp)),
        Load("16 samples that share nothing", make_batch(distinct, responses[::4], ramp[:16])),
    ]


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Rewards centred by group of eight."""
    groups = np.array(rewards).reshape(-1, 8)
    centred: list[float] = (groups - groups.mean(1, keepdims=True)).reshape(-1).tolist()
    return centred


def make_batch(prompts: Sequence[list[int]], responses: Sequence[list[int]], advantages: Sequence[float]) -> TrainBatch:
    """A batch whose rewards are the advantages."""
    count = len(prompts)
    num_tokens = sum(map(len, responses))
    return TrainBatch(
        step=0,
        tokens=np.concatenate([[*p, *r] for p, r in zip(prompts, responses, strict=True)]).astype(np.int32),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        response_lengths=np.array([len(response) for response in responses], np.int32),
        loss_mask=np.ones(num_tokens, np.uint8),
        log_probs=np.zeros(num_tokens, np.float32),
        weight_versions=np.zeros(num_tokens, np.int32),
        rewards=np.array(advantages, np.float32),
        group_ids=np.arange(count) // 8,
        rollout_ids=np.arange(count),
        sample_ids=np.arange(count),
    )


class _Nowhere:
    def publish(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Weights go nowhere here."""


def with_trainer(folder: Path, loads: Sequence[Load], rounds: int) -> list[tuple[float, dict[str, float]]]:
    """CPU seconds of one step of each batch, and the metrics of the last."""
    from slimrl.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(
        CkptConfig(hf_checkpoint=folder),
        ModelConfig(),
        1.0,
        GrpoConfig(),
        ADAM,
        PerfConfig(),
        num_steps_per_rollout=1,
        global_batch_size=64,
        total_steps=1,
        advantage=lambda rewards, group_ids: rewards,
        transport=_Nowhere(),
        device="cpu",
    )
    trainer.load(None)
    trainer.train(loads[-1].batch)  # the first step makes Adam's moments
    results = []
    for load in loads:
        metrics: dict[str, float] = {}
        seconds = best_cpu_seconds(
            lambda batch=load.batch, kept=metrics: kept.update(trainer.train(batch).metrics), rounds
        )
        results.append((seconds, metrics))
    return results


def with_transformers(model: Any, loads: Sequence[Load], rounds: int) -> list[float]:
    """CPU seconds of one step of each batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=ADAM.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    slow_step(model, optimizer, loads[-1].batch)()  # the first step makes Adam's moments
    return [best_cpu_seconds(slow_step(model, optimizer, load.batch), rounds) for load in loads]


def slow_step(model: Any, optimizer: torch.optim.Optimizer, batch: TrainBatch) -> Callable[[], None]:
    """One step of a batch, padded."""
    lengths = batch.prompt_lengths + batch.response_lengths
    rows = np.split(batch.tokens, lengths.cumsum()[:-1])
    ids = torch.full((len(batch), int(lengths.max())), 2)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row)
        mask[i, : len(row)] = 1
    prompt_length = int(batch.prompt_lengths.min())
    assert (batch.prompt_lengths == prompt_length).all()
    advantages = torch.from_numpy(batch.rewards)[:, None]

    def step() -> None:
        optimizer.zero_grad()
        for part in torch.arange(len(batch)).split(16):
            logits = model(ids[part], attention_mask=mask[part], logits_to_keep=NEW_TOKENS + 1, use_cache=False).logits
            log_p = logits[:, :-1].log_softmax(-1).gather(-1, ids[part, prompt_length:, None])[..., 0]
            ratio = (log_p - log_p.detach()).exp()
            value = torch.minimum(ratio * advantages[part], ratio.clamp(0.8, 1.2) * advantages[part])
            (-value.mean(-1).sum() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def best_cpu_seconds(run: Callable[[], None], rounds: int) -> float:
    """The least CPU seconds of some rounds."""
    best_s = float("inf")
    for _ in range(rounds):
        start_s = time.process_time()
        run()
        best_s = min(best_s, time.process_time() - start_s)
    return best_s


if __name__ == "__main__":
    main()
