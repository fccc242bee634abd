"""A whole GRPO step on a GPU, engine, rewards, trainer and weights, against TRL's GRPOTrainer: wall seconds.

A model of random weights in the shape of Qwen2.5 (see gpu.py), 8 prompts x 8 samples, prompts of 256 words, 128 new
tokens, bfloat16, one optimizer step a rollout; both through their own front door, in processes of their own, one after
the other on the same GPU. TRL generates with transformers (vLLM needs a package of its own), trains in autocast with a
fused AdamW, without gradient checkpointing. Needs TRL beside slimrl: `python benchmarks/gpu_step.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu import SHAPES, save_model

PROMPTS, SAMPLES, WORDS, NEW_TOKENS = 8, 8, 256, 128
REWARD = '''
def score(sample):
    """Some number that differs from answer to answer."""
    return sum(sample.tokens) % 97 / 97
'''


def main() -> None:
    """Run both and print the table; with --trl FOLDER be TRL's side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="0.5B")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--trl", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl:
        with_trl(options.trl, options.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        save_model(folder / "model", options.size)
        rows = [" ".join(["a"] * WORDS) + f" {'a ' * number}".rstrip() for number in range(PROMPTS * options.steps)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"input": row}) + "\n" for row in rows))
        (folder / "reward.py").write_text(REWARD)
        ours = with_slimrl(folder, options.steps)
        command = [sys.executable, "-W", "ignore", __file__, "--trl", str(folder), "--steps", str(options.steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
    print(f"{options.size}: seconds a step, median of steps 2 to {options.steps}")
    for name, steps in (("slimrl", ours), ("TRL", theirs)):
        print(f"{name:8}{statistics.median(steps[1:]):8.2f}   {' '.join(f'{step:.2f}' for step in steps)}")
    print(f"ratio   {statistics.median(theirs[1:]) / statistics.median(ours[1:]):8.2f}")


def with_slimrl(folder: Path, num_steps: int) -> Sequence[float]:
    """Seconds of each step, and where they went."""
    flags = {
        "--hf-checkpoint": "model",
        "--prompt-data": "prompts.jsonl",
        "--custom-rm-path": "reward.py:score",
        "--rollout-batch-size": str(PROMPTS),
        "--n-samples-per-prompt": str(SAMPLES),
        "--rollout-max-response-len": str(NEW_TOKENS),
        "--num-rollout": str(num_steps),
        "--max-tokens-per-gpu": "32768",
        "--lr": "1e-6",
        "--run-dir": "run",
        "--device": "cuda",
    }
    arguments = [part for pair in flags.items() for part in pair]
    command = [sys.executable, "-m", "slimrl", "train", "--use-dynamic-batch-size", *arguments]
    subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "perf/step_s" in row]
    for phase in ("generate", "train", "sync"):
        print(f"slimrl {phase:10}" + " ".join(f"{row[f'perf/{phase}_s']:.2f}" for row in rows))
    return [row["perf/step_s"] for row in rows]


def with_trl(folder: Path, num_steps: int) -> None:
    """Train and print the seconds of each step as JSON."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows = [json.loads(line)["input"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    seconds: list[float] = []

    class Steps(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
        """Times steps."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            self.start_s = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.start_s)

    def reward(completion_ids: Sequence[list[int]], **rest: Any) -> list[float]:
        return [sum(tokens) % 97 / 97 for tokens in completion_ids]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": row} for row in rows]),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            max_steps=num_steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=PROMPTS * SAMPLES // 16,
            num_generations=SAMPLES,
            max_completion_length=NEW_TOKENS,
            temperature=1.0,
            learning_rate=1e-6,
            beta=0.0,
            loss_type="grpo",
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            bf16=True,
            use_vllm=False,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        callbacks=[Steps()],
    )
    trainer.train()
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
