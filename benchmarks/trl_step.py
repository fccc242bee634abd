"""A whole GRPO step of the demo against TRL's GRPOTrainer: CPU seconds and peak memory, both in one run.

Same model, prompts, reward, sampling, optimizer and loss; neither evaluates nor logs to a service; two threads each.
TRL runs in an environment of its own (--peer) with what it is best with: no gradient checkpointing, no passes for
old log-probs, all of a step's samples generated at once. CPU seconds are those of all processes of a side from the
step's beginning to its end; memory is the sum over the processes, pages that they share counted once (PSS).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from step import peak_memory

from slimrl import hub
from slimrl.observe.run_dir import RunDir

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "arithmetic" / "demo.toml"
NUM_THREADS = 2


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--peer", type=Path, default=ROOT / ".venv-trl/bin/python", help="Python that has TRL")
    parser.add_argument("--peer-batch", type=int, default=16, help="samples that TRL trains on at once")
    parser.add_argument("--peer-flags", type=json.loads, default={}, help="more of GRPOConfig, as JSON")
    options = parser.parse_args()
    if not options.peer.exists():
        parser.error(f"{options.peer} is not there; `make bench-trl` makes it")
    model = hub.fetch("smollm2-135m")
    with tempfile.TemporaryDirectory() as scratch:
        ours, our_memory, rows = run_ours(Path(scratch), model, options.steps)
        settings = peer_settings(model, rows, options.steps, options.peer_batch)
        settings["grpo"] |= options.peer_flags
        theirs, their_memory = run_peer(Path(scratch), options.peer, settings)
    print_steps(ours, theirs)
    print_summary(ours, theirs, our_memory, their_memory)


def run_ours(
    scratch: Path, model: Path, num_steps: int
) -> tuple[list[dict[str, float]], dict[str, int], list[dict[str, Any]]]:
    """Lines of the demo's steps, peak memory by role, and the prompts in the order they came."""
    config = scratch / "demo.toml"
    config.write_text(re.sub(r"\[eval\].*?(?=^\[)", "", DEMO.read_text(), flags=re.S | re.M))
    run = RunDir(scratch / "run")
    command = [sys.executable, "-m", "slimrl", "train", "--config", str(config), "--run-dir", str(run.path)]
    command += ["--hf-checkpoint", str(model), "--num-rollout", str(num_steps)]
    memory = peak_memory(subprocess.Popen(command, cwd=ROOT))
    tables = [pq.read_table(path).to_pylist() for path in sorted((run.path / "rollouts").glob("*.parquet"))]
    lines = [
        {
            "step": row["step"] + 1,
            "cpu_s": row["perf/cpu_s"],
            "wall_s": row["perf/step_s"],
            "reward": sum(sample["value"] for sample in table) / len(table),
            "distinct": len({(sample["group_id"], *sample["tokens"]) for sample in table}) / len(table),
        }
        for row, table in zip([row for row in run.read_metrics() if "perf/cpu_s" in row], tables, strict=True)
    ]
    firsts = {sample["group_id"]: sample for table in tables for sample in table}
    rows = [
        {"prompt": sample["prompt"], "label": sample["label"], "tokens": sample["prompt_tokens"]}
        for _, sample in sorted(firsts.items())
    ]
    return lines, memory, rows


def peer_settings(model: Path, rows: Sequence[Mapping[str, Any]], num_steps: int, batch: int) -> dict[str, Any]:
    """The demo's settings in TRL's words; what the demo leaves out is given as slimrl's defaults are."""
    demo = tomllib.loads(DEMO.read_text())
    rollout, grpo, optimizer = demo["rollout"], demo["grpo"], demo["optimizer"]
    group_size = rollout["n-samples-per-prompt"]
    num_samples = rollout["rollout-batch-size"] * group_size
    return {
        "model": str(model),
        "reward": str(ROOT / rollout["custom-rm-path"].partition(":")[0]),
        "num_threads": NUM_THREADS,
        "rows": list(rows),
        "grpo": {
            "max_steps": num_steps,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": num_samples // batch,
            "num_generations": group_size,
            "max_completion_length": rollout["rollout-max-response-len"],
            "temperature": 1.0,
            "shuffle_dataset": False,
            "learning_rate": optimizer["lr"],
            "lr_scheduler_type": "constant",
            "adam_beta1": optimizer["adam-beta1"],
            "adam_beta2": optimizer["adam-beta2"],
            "weight_decay": optimizer["weight-decay"],
            "max_grad_norm": 1.0,
            "epsilon": grpo["eps-clip"],
            "epsilon_high": grpo["eps-clip-high"],
            "beta": 0.0,
            "loss_type": "grpo",
            "scale_rewards": "group",
            "optim": "adamw_torch_fused",
            "gradient_checkpointing": False,
            "use_cpu": True,
            "bf16": False,
            "use_vllm": False,
            "save_strategy": "no",
            "report_to": "none",
            "logging_strategy": "no",
            "disable_tqdm": True,
        },
    }


def run_peer(scratch: Path, python: Path, settings: Mapping[str, Any]) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Lines of TRL's steps and its peak memory."""
    (scratch / "settings.json").write_text(json.dumps(settings))
    output = scratch / "steps.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "core"),
        "OMP_NUM_THREADS": str(NUM_THREADS),
        "OMP_WAIT_POLICY": "PASSIVE",  # as slimrl's processes have it
        "HF_HUB_OFFLINE": "1",
    }
    script = Path(__file__).with_name("trl_peer.py")
    command = [str(python), str(script), str(scratch / "settings.json"), str(output)]
    memory = peak_memory(subprocess.Popen(command, env=environment))
    return [json.loads(line) for line in output.read_text().splitlines()], memory


def print_steps(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> None:
    """One line a step."""
    columns = ["step", "slimrl s", "TRL s", "ratio", "reward", "TRL's", "distinct", "TRL's"]
    print("CPU seconds a step, mean reward, distinct samples\n" + "".join(f"{word:>10}" for word in columns))
    for mine, peer in zip(ours, theirs, strict=True):
        cells = [f"{mine['step']:10.0f}", f"{mine['cpu_s']:10.2f}", f"{peer['cpu_s']:10.2f}"]
        cells += [f"{peer['cpu_s'] / mine['cpu_s']:10.2f}", f"{mine['reward']:10.2f}", f"{peer['reward']:10.2f}"]
        print("".join([*cells, f"{mine['distinct']:10.0%}", f"{peer['distinct']:10.0%}"]))


def print_summary(
    ours: Sequence[Mapping[str, float]],
    theirs: Sequence[Mapping[str, float]],
    our_memory: Mapping[str, int],
    their_memory: Mapping[str, int],
) -> None:
    """Means over the first steps and over all, and the memory."""
    print(f"\n{'':32}{'slimrl':>10}{'TRL':>10}{'TRL / slimrl':>14}")
    parts = {
        "first four steps": slice(0, 4),
        "steps 2 to the last": slice(1, None),
        f"all {len(ours)} steps": slice(None),
    }
    for unit, key in (("CPU", "cpu_s"), ("wall", "wall_s")):
        for name, part in parts.items():
            mine, peer = (mean([line[key] for line in lines[part]]) for lines in (ours, theirs))
            print(f"{f'{unit} s, {name}':32}{mine:10.2f}{peer:10.2f}{peer / mine:14.2f}")
    mine, peer = (sum(memory.values()) / 1e9 for memory in (our_memory, their_memory))
    print(f"{'peak memory, GB':32}{mine:10.2f}{peer:10.2f}{peer / mine:14.2f}")
    print("slimrl: " + ", ".join(f"{role} {size / 1e9:.2f}" for role, size in sorted(our_memory.items())))


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
