"""Rewards and the service that calls them: scores a second, overhead, how late a kill lands, memory.

python benchmarks/rewards.py [--rewards math dapo f1 ...] [--samples 4000] [--fixtures tests/fixtures/rewards]

Scores a second are of one core's CPU time, over the example answers of the tests: once through, and again when what a
reward remembers is warm. The overhead is what a sample costs beyond a direct call of the same function, with nothing
remembered. Seconds are wall clock unless they are called CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from slimrl import Group, Sample, Status
from slimrl.config import RolloutConfig
from slimrl.errors import SlimrlError
from slimrl.registry import Component, Options, RewardTable, load
from slimrl.scoring import Scorer, ScoringSettings

ROOT = Path(__file__).parents[1]
REWARDS = ("math", "deepscaler", "math_verify", "dapo", "f1", "gpqa", "ifbench")
WANTED = {"math": 400, "dapo": 10_000, "f1": 10_000, "gpqa": 10_000}
GROUP = 8
DEADLINE_S = 1.0
LIMIT = 512 << 20
FUNCTIONS = """
import os, re
from slimrl import reward_traits

@reward_traits(inline=True)
def inline(sample): return float(len(sample.response) > 5)
def worker(sample): return float(len(sample.response) > 5)
async def waiting(sample): return float(len(sample.response) > 5)
def hangs(sample):
    if sample.response == "hang": re.match(r"(a+)+$", "a" * 40 + "b")
    if sample.response == "pid": return os.getpid()
    if sample.response == "eat":
        taken = []
        while True: taken.append(b"x" * (1 << 20))
    return 1.0
"""

Call = Any  # a reward


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewards", nargs="+", default=REWARDS)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--fixtures", type=Path, default=ROOT / "tests/fixtures/rewards")
    options = parser.parse_args()
    console = Console()
    console.print(speed(options.rewards, options.fixtures))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "functions.py"
        path.write_text(FUNCTIONS)
        console.print(overhead(path, options.samples))
        console.print(asyncio.run(trouble(path)))


def speed(names: list[str], fixtures: Path) -> Table:
    """Scores a second of CPU time."""
    table = Table("reward", "answers", "once through", "again", "wanted", title="scores a second and core")
    plugins = load(warn=False)
    options = Options([RolloutConfig()]).with_defaults(plugins.catalogue.option_types)
    for name in names:
        path = fixtures / f"{'hard' if name == 'math_verify' else name}.jsonl"
        if not path.exists():
            table.add_row(name, "no examples")
            continue
        try:
            reward = plugins.resolve("reward", name).make(options)
        except SlimrlError as error:
            table.add_row(name, str(error).splitlines()[0])
            continue
        with path.open(encoding="utf-8") as file:
            samples = [sample_of(row) for row in map(json.loads, file) if "response" in row and "label" in row]
        call(reward, samples[0])
        first, again = once_through(reward, samples), once_through(reward, samples, seconds=1.0)
        wanted = WANTED.get(name)
        told = f"{wanted:,} ({first / wanted:.1f}x)" if wanted else ""
        table.add_row(name, str(len(samples)), f"{first:,.0f}", f"{again:,.0f}", told)
    return table


def once_through(reward: Call, samples: list[Sample], seconds: float = 0.0) -> float:
    """Scores a second, over all samples, and over again until that took `seconds` of CPU time."""
    count, started = 0, time.process_time()
    while count == 0 or time.process_time() - started < seconds:
        for sample in samples:
            call(reward, sample)
        count += len(samples)
    return count / (time.process_time() - started)


def call(reward: Call, sample: Sample) -> None:
    """Call a reward; what it raises is an outcome too."""
    try:
        reward(sample)
    except Exception:
        return


def overhead(path: Path, count: int) -> Table:
    """What the service adds to a direct call."""
    table = Table("reward runs", "direct", "service", "overhead", "CPU here", title="microseconds a sample")
    for name, where in (("inline", "on the event loop"), ("worker", "in a worker"), ("waiting", "in the async worker")):
        scorer = scorer_of(path, name)
        direct = direct_seconds(path, name, make_samples(count))
        wall, cpu = asyncio.run(service_seconds(scorer, make_samples(count)))
        table.add_row(
            where, f"{direct * 1e6:.1f}", f"{wall * 1e6:.0f}", f"{(wall - direct) * 1e6:.0f}", f"{cpu * 1e6:.0f}"
        )
    return table


def direct_seconds(path: Path, name: str, samples: list[Sample]) -> float:
    """Seconds of a bare call."""
    reward = load([], warn=False).resolve("reward", f"{path}:{name}").make(Options())

    async def awaited() -> None:
        for sample in samples:
            await reward(sample)

    started = time.perf_counter()
    if name == "waiting":
        asyncio.run(awaited())
    else:
        for sample in samples:
            reward(sample)
    return (time.perf_counter() - started) / len(samples)


async def service_seconds(scorer: Scorer, samples: list[Sample]) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process, for each sample in groups of a rollout that is all there."""
    groups = [Group(i, samples[i : i + GROUP]) for i in range(0, len(samples), GROUP)]
    async with scorer:
        await scorer.score(Group(-1, make_samples(GROUP)))
        with cpu_seconds() as spent:
            started = time.perf_counter()
            await asyncio.gather(*(scorer.score(group) for group in groups))
            seconds = time.perf_counter() - started
    assert all(sample.value is not None for sample in samples)
    return seconds / len(samples), spent[0] / len(samples)


async def trouble(path: Path) -> Table:
    """Hangs and memory."""
    table = Table("", "", title=f"two workers, a deadline of {DEADLINE_S:g} s, {LIMIT >> 20} MiB a worker")
    async with scorer_of(path, "hangs", num_workers=2, timeout_s=DEADLINE_S, memory_limit_bytes=LIMIT) as scorer:
        (pid,) = await values(scorer, "pid")
        table.add_row("memory of an idle worker", f"{psutil.Process(int(pid)).memory_info().rss / 2**20:.0f} MiB")
        calm = await rate(scorer, DEADLINE_S)
        blocks: list[float] = []
        watching = asyncio.create_task(watch_blocks(blocks))
        started = time.perf_counter()
        hang = asyncio.create_task(values(scorer, "hang"))
        await asyncio.sleep(0.05)
        during = await rate(scorer, DEADLINE_S - 0.1)
        await hang
        late = time.perf_counter() - started - DEADLINE_S
        watching.cancel()
        table.add_row("a kill lands after its deadline by", f"{late * 1e3:.0f} ms")
        table.add_row("scores a second, calm", f"{calm:,.0f}")
        table.add_row("scores a second, while one hangs", f"{during:,.0f} ({during / calm:.2f}x)")
        table.add_row("longest block of the event loop meanwhile", f"{max(blocks) * 1e3:.1f} ms of CPU")
        taken: list[int] = []
        watching = asyncio.create_task(watch_memory(taken))
        await values(scorer, "eat")
        watching.cancel()
        most = max(taken) / 2**20
        table.add_row("most memory of a worker that takes all it gets", f"{most:.0f} MiB ({most / (LIMIT >> 20):.2f}x)")
    return table


async def watch_blocks(seconds: list[float]) -> None:
    """Note how long this thread computes between two turns of the loop."""
    while True:
        started = time.thread_time()
        await asyncio.sleep(0)
        seconds.append(time.thread_time() - started)


async def watch_memory(taken: list[int]) -> None:
    """Note what the workers take."""
    while True:
        for child in psutil.Process().children():
            try:
                taken.append(child.memory_info().rss)
            except psutil.Error:
                continue
        await asyncio.sleep(0.01)


async def rate(scorer: Scorer, seconds: float) -> float:
    """Scores a second, one group after the other."""
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        await scorer.score(Group(0, make_samples(GROUP)))
        count += GROUP
    return count / (time.perf_counter() - started)


async def values(scorer: Scorer, *responses: str) -> list[Any]:
    """The values of responses."""
    samples = [Sample(0, i, i, "p", [], response=text, status=Status.COMPLETED) for i, text in enumerate(responses)]
    await scorer.score(Group(0, samples))
    return [sample.value for sample in samples]


def scorer_of(path: Path, name: str, **settings: Any) -> Scorer:
    """A scorer of one function."""
    reward = load([], warn=False).resolve("reward", f"{path}:{name}")
    return Scorer(RewardTable((Component(name, 1.0, reward),)), Options(), ScoringSettings(cache_size=0, **settings))


def make_samples(count: int) -> list[Sample]:
    """Responses of some 800 characters and 200 tokens."""
    return [
        Sample(
            i // GROUP,
            i,
            i,
            "What is 3 + 4?",
            list(range(50)),
            label="7",
            tokens=list(range(200)),
            log_probs=[-1.0] * 200,
            response=f"It is {i}, since " * 50,
            status=Status.COMPLETED,
        )
        for i in range(count)
    ]


def sample_of(row: dict[str, Any]) -> Sample:
    """An example of the tests as a sample."""
    return Sample(0, 0, 0, row.get("prompt") or "", [], row["label"], row["metadata"] or {}, response=row["response"])


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """CPU seconds of this process inside the block, in a list of one."""
    spent = [0.0]
    started = time.process_time()
    yield spent
    spent[0] = time.process_time() - started


if __name__ == "__main__":
    main()
