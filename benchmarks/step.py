"""CPU seconds and memory of a whole step of the demo, by process and by what is the model's arithmetic.

Runs `slimrl train` with the demo's configuration and reads the run folder. Arithmetic is the engine's and the
trainer's passes, the optimizer included; sync is what all processes spend while the weights go to the engine; the
rest is hooks, HTTP, Ray, packing, rewards, logging. Memory is the sum over all processes; pages that they share are
counted once (PSS).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from slimrl import hub
from slimrl.observe.cpu import memory_by_role
from slimrl.observe.run_dir import RunDir

DEMO = Path(__file__).parents[1] / "examples" / "arithmetic" / "demo.toml"
ARITHMETIC = ("perf/engine_model_cpu_s", "perf/train_model_cpu_s")


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder) / "run")
        command = [sys.executable, "-m", "slimrl", "train", "--config", str(DEMO), "--run-dir", str(run.path)]
        command += ["--hf-checkpoint", str(hub.fetch("smollm2-135m")), "--num-rollout", str(options.steps)]
        memory = peak_memory(subprocess.Popen(command, cwd=DEMO.parents[2]))
        rows = [row for row in run.read_metrics() if "perf/cpu_s" in row]
    print_cpu(rows)
    total = sum(memory.values())
    parts = ", ".join(f"{role} {size / 1e9:.2f}" for role, size in sorted(memory.items(), key=lambda item: -item[1]))
    print(f"\npeak memory {total / 1e9:.2f} GB: {parts}")


def peak_memory(process: subprocess.Popen[bytes], interval_s: float = 0.5) -> dict[str, int]:
    """Memory by role when the sum over the process and its descendants was largest; waits for the process."""
    peak: dict[str, int] = {}
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        now = memory_by_role(watched)
        peak = max(peak, now, key=lambda sizes: sum(sizes.values()))
        time.sleep(interval_s)
    assert process.returncode == 0, "the run failed"
    return peak


def print_cpu(rows: list[dict[str, float]]) -> None:
    """One line a step: CPU seconds by process, and the share that is the model's arithmetic."""
    roles = sorted({name for row in rows for name in row if name.startswith("perf/cpu_") and name != "perf/cpu_s"})
    header = [name.removeprefix("perf/cpu_").removesuffix("_s") for name in roles]
    columns = ["step", *header, "all", "arithmetic", "sync", "rest"]
    print("CPU seconds a step\n" + "".join(f"{word:>11}" for word in columns))
    for row in rows:
        cells = [f"{row['step'] + 1:>11.0f}", *(f"{row.get(name, 0.0):>11.2f}" for name in roles)]
        print("".join([*cells, f"{row['perf/cpu_s']:>11.2f}", *(f"{share:>11.1%}" for share in split([row]))]))
    arithmetic, sync, rest = split(rows)
    mean = sum(row["perf/cpu_s"] for row in rows) / len(rows)
    print(
        f"mean {mean:.2f} CPU seconds a step: {arithmetic:.1%} arithmetic, {sync:.1%} weight sync, {rest:.1%} the rest"
    )


def split(rows: list[dict[str, float]]) -> tuple[float, float, float]:
    """Shares of the CPU seconds: arithmetic, weight sync, the rest."""
    total = sum(row["perf/cpu_s"] for row in rows)
    arithmetic = sum(row[name] for row in rows for name in ARITHMETIC) / total
    sync = sum(row["perf/sync_cpu_s"] for row in rows) / total
    return arithmetic, sync, 1 - arithmetic - sync


if __name__ == "__main__":
    main()
