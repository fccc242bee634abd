"""Trainer and embedded engine on a GPU against transformers and torch, in one run: `python benchmarks/gpu.py`.

A model of random weights in the shape of Qwen2.5 (0.5B or 1.5B), bfloat16: nothing has to be downloaded, and no
weight's value matters for speed. Times are wall time between synchronisations, the median of a few rounds after one
that warms up. transformers is given what it is best with: samples sorted by length, padded batches, torch's flash
attention, logits of the responses only, float32 weights under autocast with a fused AdamW; `generate` has
left-padded batches and its default cache.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig
from slimrl.types import TrainBatch

SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "intermediate_size": 4864},
    "1.5B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960},
}
VOCABULARY = 151936
GROUPS, SAMPLES, PROMPT, LONGEST = 8, 8, 384, 1024
NEW_TOKENS = 128
ADAM = OptimizerConfig(lr=1e-6, adam_beta2=0.95, weight_decay=0.0)
Run = Callable[[], object]


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="0.5B")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=16384, help="of a micro-batch of the trainer")
    parser.add_argument("--micro-batch", type=int, default=8, help="samples of a batch of transformers; 1.5B: 4 fit")
    parser.add_argument("--parts", nargs="+", choices=("train", "profile", "generate"), default=["train", "generate"])
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.size}, median of {options.rounds}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(Path(scratch), options.size)
        if "train" in options.parts or "profile" in options.parts:
            train(folder, options)
        if "generate" in options.parts:
            generate(folder, options)


def save_model(folder: Path, size: str) -> Path:
    """A checkpoint of random weights, with a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **SHAPES[size],
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = Qwen2ForCausalLM(config)
    model.bfloat16().save_pretrained(folder)
    words = Tokenizer(WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    return folder


def make_batch(*, seed: int = 0) -> TrainBatch:
    """Groups that share a prompt; lengths of responses log-normal (median 400, sigma 0.7), a signal in each."""
    rng = np.random.default_rng(seed)
    count = GROUPS * SAMPLES
    prompts = [rng.integers(2, VOCABULARY, PROMPT) for _ in range(GROUPS)]
    lengths = np.clip(rng.lognormal(np.log(400), 0.7, count), 8, LONGEST).astype(np.int32)
    rows = [np.concatenate((prompts[i // SAMPLES], rng.integers(2, VOCABULARY, n))) for i, n in enumerate(lengths)]
    total = int(lengths.sum())
    return TrainBatch(
        step=0,
        tokens=np.concatenate(rows).astype(np.int32),
        prompt_lengths=np.full(count, PROMPT, np.int32),
        response_lengths=lengths,
        loss_mask=np.ones(total, np.uint8),
        log_probs=np.full(total, -np.log(VOCABULARY), np.float32),
        weight_versions=np.zeros(total, np.int32),
        rewards=(np.arange(count) % SAMPLES - (SAMPLES - 1) / 2).astype(np.float32),
        group_ids=np.arange(count) // SAMPLES,
        rollout_ids=np.arange(count),
        sample_ids=np.arange(count),
    )


def train(folder: Path, options: argparse.Namespace) -> None:
    """One GRPO step of both."""
    batch = make_batch()
    tokens = len(batch.tokens)
    rows = []
    for name, share in (("trainer", True), ("trainer, nothing shared", False)):
        perf = PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=options.max_tokens, share_prefixes=share)
        trainer = make_trainer(folder, perf)
        metrics: dict[str, float] = {}

        def step(trainer: Any = trainer, metrics: dict[str, float] = metrics) -> None:
            metrics.update(trainer.train(batch).metrics)

        if "train" in options.parts:
            rows.append((name, *measure(step, options.rounds), metrics))
            print(name, {key: round(value, 4) for key, value in metrics.items() if key.startswith("perf/")}, flush=True)
        if share and "profile" in options.parts:
            profile(step)
        del trainer, step
        free()
    from slimrl.megatron.parallel import shut_down_parallel

    shut_down_parallel()
    if "train" not in options.parts:
        return
    rows.append(("transformers + torch", *measure(slow_step(folder, batch, options.micro_batch), options.rounds), {}))
    free()
    slow_s = rows[-1][1]
    print(
        f"\n{'one GRPO step, ' + str(tokens) + ' tokens':32}{'ms':>9}{'tokens/s':>10}{'GiB':>7}{'MFU':>7}{'ratio':>7}"
    )
    for name, seconds, gib, metrics in rows:
        mfu = f"{metrics['perf/train_mfu']:7.3f}" if "perf/train_mfu" in metrics else f"{'':7}"
        print(f"{name:32}{seconds * 1000:9.1f}{tokens / seconds:10.0f}{gib:7.1f}{mfu}{slow_s / seconds:7.2f}")


class _Nowhere:
    def publish(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Weights go nowhere here."""


def make_trainer(folder: Path, perf: PerfConfig) -> Any:
    """A trainer of one process."""
    from slimrl.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(
        CkptConfig(hf_checkpoint=folder),
        ModelConfig(),
        1.0,
        GrpoConfig(),
        ADAM,
        perf,
        num_steps_per_rollout=1,
        global_batch_size=GROUPS * SAMPLES,
        total_steps=1,
        advantage=lambda rewards, group_ids: rewards,
        transport=_Nowhere(),
        device="cuda",
        dtype="bfloat16",
    )
    trainer.load(None)
    return trainer


def slow_step(folder: Path, batch: TrainBatch, micro_batch: int) -> Run:
    """The same step by transformers and torch."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=ADAM.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    lengths = batch.prompt_lengths + batch.response_lengths
    rows = np.split(batch.tokens, lengths.cumsum()[:-1])
    order = np.argsort(lengths)
    parts = []
    for members in np.split(order, range(micro_batch, len(batch), micro_batch)):
        ids = torch.ones((len(members), int(lengths[members].max())), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, member in enumerate(members):
            ids[place, : lengths[member]] = torch.from_numpy(rows[member])
            mask[place, : lengths[member]] = 1
        parts.append((ids.cuda(), mask.cuda(), torch.from_numpy(batch.rewards[members]).cuda()[:, None]))

    def step() -> None:
        optimizer.zero_grad()
        for ids, mask, advantages in parts:
            with torch.autocast("cuda", torch.bfloat16):
                kept = ids.shape[1] - PROMPT + 1
                logits = model(ids, attention_mask=mask, logits_to_keep=kept, use_cache=False).logits
            log_p = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, PROMPT:, None])[..., 0]
            ratio = (log_p - log_p.detach()).exp()
            value = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            trained = mask[:, PROMPT:]
            (-((value * trained).sum(-1) / trained.sum(-1)).sum() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def profile(step: Run) -> None:
    """The kernels that take most of a step."""
    step()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        step()
        torch.cuda.synchronize()
    kernels = [
        event for event in found.key_averages() if event.self_device_time_total and not event.self_cpu_time_total
    ]
    total = sum(event.self_device_time_total for event in kernels)
    print(f"\nkernels of one step: {total / 1000:.1f} ms")
    for event in sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]:
        share = event.self_device_time_total / total
        print(f"{share:6.1%} {event.self_device_time_total / 1000:8.1f} ms {event.count:6} {event.key[:110]}")


def generate(folder: Path, options: argparse.Namespace) -> None:
    """Tokens a second of both."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, VOCABULARY, PROMPT).tolist() for _ in range(64)]
    loads = [("64 in groups of eight", prompts[:8], 8), ("64 distinct prompts", prompts, 1), ("one", prompts[:1], 1)]
    engine = with_engine(folder, loads, options.rounds)
    theirs = with_generate(folder, loads, options.rounds)
    print(f"\n{f'{NEW_TOKENS} new tokens each':26}{'engine':>10}{'generate':>10}{'ratio':>7}")
    for (name, asked, num_each), own_s, their_s in zip(loads, engine, theirs, strict=True):
        count = len(asked) * num_each * NEW_TOKENS
        print(f"{name:26}{count / own_s:10.0f}{count / their_s:10.0f}{their_s / own_s:7.2f}")


Loads = Sequence[tuple[str, list[list[int]], int]]


def with_engine(folder: Path, loads: Loads, rounds: int) -> list[float]:
    """Seconds of each load."""
    from slimrl.engines.embedded.engine import Engine
    from slimrl.engines.embedded.options import EngineOptions
    from slimrl.engines.embedded.params import Sampling
    from slimrl.engines.embedded.request import Request

    engine = Engine(EngineOptions(folder, device="cuda", dtype="bfloat16"))
    sampling = Sampling(max_new_tokens=NEW_TOKENS, ignore_eos=True)

    def run(prompts: list[list[int]], num_each: int) -> None:
        places = [(place, copy) for place in range(len(prompts)) for copy in range(num_each)]
        engine.generate([Request(f"{p}_{c}", tuple(prompts[p]), sampling, seed=engine.draw_seed()) for p, c in places])

    seconds = [measure(lambda load=load: run(load[1], load[2]), rounds)[0] for load in loads]
    engine.close()
    return seconds


def with_generate(folder: Path, loads: Loads, rounds: int) -> list[float]:
    """Seconds of each load."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).cuda()

    def run(prompts: list[list[int]], num_each: int) -> None:
        ids = torch.tensor(prompts).cuda()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            num_return_sequences=num_each,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            pad_token_id=1,
        )

    return [measure(lambda load=load: run(load[1], load[2]), rounds)[0] for load in loads]


def measure(run: Run, rounds: int) -> tuple[float, float]:
    """Median seconds after one round that warms up, and the GiB that tensors took at most."""
    run()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() / 2**30


def free() -> None:
    """Give the memory of what is no longer used back."""
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
