"""The rollout loop at scale, over simulated engines: no model, no GPU.

python benchmarks/rollout_scale.py [--samples 200000] [--in-flight 4096]

1. The CPU time of loop, gate, generator and packing per sample, and memory from the first step to the last; the same
   with the engine's client and HTTP, the engine being another process whose time does not count.
2. When a batch is ready, beside the ideal schedule: when the last group that it needs could be ready.
3. Step times under a long-tailed length of responses, on a clock that the simulation turns: synchronous, over-sampling
   that throws away what it cuts off, partial rollout, and asynchronous, beside the bound of an engine or a trainer that
   is never idle.
4. The longest that responses of 8,000 tokens with log-probs hold the event loop: one, and 64 that arrive together.
5. CPU time of a request of stock httpx and of the engine's client (benchmarks/transport.py tells more).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import psutil
from rich.console import Console
from rich.table import Table
from transport import allow_sockets, canned, measure_ours, measure_stock, read_request, run_server, serve, served

from slimrl import registry
from slimrl.data.buffer import Buffer
from slimrl.data.source import sample_seed
from slimrl.engines.client import HttpEngineClient
from slimrl.engines.completion import parse_completion
from slimrl.registry import Options
from slimrl.rollout.batch import make_batch
from slimrl.rollout.gate import Engine, Gate
from slimrl.rollout.loop import Filled, FillSettings, fill
from slimrl.rollout.partial import PartialRollout
from slimrl.rollout.produce import produce
from slimrl.rollout.stream import Stream
from slimrl.types import Completion, Group, Sample, SamplingParams, Score

T = TypeVar("T")

GROUP = 8
TOKEN_S = 0.01
TRAIN_S = 10.0
HTTP_TOKEN_S = 0.01
MAX_TOKENS = 8192
PLUGINS = registry.load(warn=False)
single_turn = PLUGINS.resolve("generator", "single_turn").make(Options())
pop_first = PLUGINS.resolve("buffer_filter", "pop_first").make(Options())


class Endless:
    """Groups without end; a sample's prompt begins with its own number."""

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def take(self, count: int) -> list[Group]:
        """The next groups."""
        ids = range(self._next, self._next + count)
        self._next += count
        return [Group(g, [self._sample(g, i) for i in range(g * GROUP, (g + 1) * GROUP)]) for g in ids]

    def _sample(self, group_id: int, number: int) -> Sample:
        return Sample(group_id, number, number, "a prompt", [number, 1, 2, 3], seed=sample_seed(1, number))

    def state(self) -> dict[str, Any]:
        """Nothing: a benchmark is not resumed."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class SimulatedEngine:
    """Answers after the time that its number of tokens takes; `slots` generate at once, the others wait.

    The length of a response depends on the sample's number, the part that a request brings along counts in.
    """

    def __init__(self, slots: int, length_of: Callable[[int], int], *, token_s: float, is_short: bool = False) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._length_of = length_of
        self._token_s = token_s
        self._is_short = is_short
        self._aborted: asyncio.Event = asyncio.Event()
        self.made = 0
        self._served = [(0.0, 0)]

    def serve(self, version: int) -> None:
        """New weights from now on."""
        self._served.append((asyncio.get_running_loop().time(), version))

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        whole = self._length_of(input_ids[0])
        left = max(min(whole, MAX_TOKENS) - (len(input_ids) - 4), 1)
        aborted = self._aborted
        async with self._slots:
            clock, count = asyncio.get_running_loop().time, left
            started = clock()
            if aborted.is_set():
                return self._completion(0, "abort", started)
            if self._is_short:  # the plain case: nothing of it is ever aborted
                await asyncio.sleep(left * self._token_s)
                return self._completion(64, "stop", started)
            try:
                await asyncio.wait_for(aborted.wait(), left * self._token_s)
                count = min(int((clock() - started) / self._token_s), left - 1)
                return self._completion(count, "abort", started)
            except TimeoutError:
                return self._completion(left, "stop", started)
            except asyncio.CancelledError:
                count = min(int((clock() - started) / self._token_s), left - 1)
                raise
            finally:
                self.made += count

    async def abort_all(self) -> None:
        """End everything; what comes later is served again."""
        self._aborted.set()
        self._aborted = asyncio.Event()
        await asyncio.sleep(0)

    def _completion(self, count: int, reason: Any, started: float) -> Completion:
        versions: list[int] = []
        for (_, version), (until, _) in pairwise([*self._served, (math.inf, 0)]):
            if until > started:  # tokens until then are of this version
                tokens = count if until == math.inf else min(count, math.ceil((until - started) / self._token_s))
                versions += [version] * (tokens - len(versions))
        return Completion([7] * count, [-0.5] * count, versions, "", reason)


async def step(
    source: Endless, buffer: Buffer, engine: Engine, version: int, how: FillSettings, *, is_partial: bool
) -> Filled:
    """One batch, as the rollout manager fills it; a reward that takes no time."""

    async def score(group: Group) -> None:
        for sample in group:
            sample.score = Score.scored(float(sample.sample_id % 2))

    gate = Gate(engine, 1 << 20)
    rollout = PartialRollout(single_turn, score, gate, version)
    make = partial(
        produce, generate=rollout.generate, engine=gate, score=rollout.score, sampling=SamplingParams(MAX_TOKENS)
    )
    filled = await fill(source, buffer, make, None, how, gate.shut if is_partial else None)
    if not is_partial:
        await engine.abort_all()
    return filled


def long_tailed(median: float, sigma: float) -> Callable[[int], int]:
    """Lengths by number, log-normal."""
    return lambda number: max(int(random.Random(number).lognormvariate(0, sigma) * median), 1)


async def measure_scale(samples: int, in_flight: int) -> list[tuple[str, str]]:
    """CPU time and memory over many steps of `in_flight` samples each."""
    groups = in_flight // GROUP
    source, buffer = Endless(), Buffer(pop_first)
    engine = SimulatedEngine(in_flight, long_tailed(30, 0.5), token_s=0.002, is_short=True)
    how = FillSettings(groups, groups, max_finished=1 << 30)
    process, done, start_rss = psutil.Process(), 0, 0
    cpu, wall = time.process_time(), time.perf_counter()
    version = 0
    while done < samples:
        filled = await step(source, buffer, engine, version, how, is_partial=False)
        batch = make_batch(version, filled.kept)
        done += len(batch)
        version += 1
        if version == 3:
            start_rss = process.memory_info().rss
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    grown = (process.memory_info().rss - start_rss) / 2**20
    return [
        ("samples, steps, in flight", f"{done:,}, {version}, {in_flight:,}"),
        ("manager CPU a sample", f"{cpu / done * 1e3:.3f} ms"),
        ("wall time", f"{wall:.0f} s"),
        ("memory after step 3", f"{start_rss / 2**20:.0f} MiB"),
        ("growth until the end", f"{grown:+.1f} MiB"),
    ]


class TurnedClock(selectors.DefaultSelector):
    """Waiting takes no time and counts in full; work counts with the CPU time that it takes, or not at all."""

    def __init__(self, *, counts_work: bool) -> None:
        super().__init__()
        self._counts_work = counts_work
        self._waited = 0.0

    def time(self) -> float:
        """Seconds."""
        return self._waited + (time.process_time() if self._counts_work else 0.0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._waited += timeout or 0.0
        return super().select(0)


def on_turned_clock(work: Coroutine[Any, Any, T], *, counts_work: bool = False) -> tuple[T, float]:
    """The result, and the seconds that passed on the simulated clock."""
    clock = TurnedClock(counts_work=counts_work)
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = clock.time  # type: ignore[method-assign]
    started = clock.time()
    try:
        return loop.run_until_complete(work), clock.time() - started
    finally:
        loop.close()


def measure_ready(in_flight: int, repeats: int = 3) -> list[tuple[str, str]]:
    """How long after the ideal time a batch is ready, all of `in_flight` samples being generated at once.

    The clock counts the loop's own CPU time and none that other programs take of it.
    """
    lateness = []
    groups, token_s = in_flight // GROUP, 0.1
    how = FillSettings(groups // 2, groups, 1 << 30)
    for attempt in range(repeats):
        lengths = spread(attempt * in_flight, in_flight)
        engine = SimulatedEngine(in_flight, lengths.__getitem__, token_s=token_s, is_short=True)
        source = Endless(attempt * groups)
        _, took = on_turned_clock(step(source, Buffer(pop_first), engine, 0, how, is_partial=False), counts_work=True)
        ideal = ideal_tokens(lengths, groups // 2) * token_s
        lateness.append((took / ideal - 1, ideal))
    return [
        (f"batch of {in_flight // 2:,} of {in_flight:,} samples in flight, ideal", f"{lateness[-1][1]:.2f} s"),
        ("ready later than that by", ", ".join(f"{share:.2%}" for share, _ in lateness)),
    ]


def spread(first: int, count: int) -> dict[int, int]:
    """Long-tailed lengths by sample number, drawn beforehand: drawing is no work of the loop."""
    lengths = long_tailed(100, 0.6)
    return {number: min(lengths(number), MAX_TOKENS) for number in range(first, first + count)}


def ideal_tokens(lengths: Mapping[int, int], groups: int) -> int:
    """Tokens until `groups` groups are ready if every sample begins at once."""
    ends: dict[int, int] = {}
    for number, length in lengths.items():
        ends[number // GROUP] = max(ends.get(number // GROUP, 0), length)
    return sorted(ends.values())[groups - 1]


async def measure_http(url: str, in_flight: int, steps: int) -> float:
    """CPU seconds a sample with the engine's client, after a step that opens the connections."""
    groups = in_flight // GROUP
    source, buffer, how = Endless(), Buffer(pop_first), FillSettings(groups, groups, 1 << 30)
    async with HttpEngineClient(url, concurrency=in_flight) as client:
        await step(source, buffer, client, 0, how, is_partial=False)
        cpu = time.process_time()
        for version in range(1, steps + 1):
            make_batch(version, (await step(source, buffer, client, version, how, is_partial=False)).kept)
        return (time.process_time() - cpu) / steps / in_flight


def serve_engine(port_to: Connection, in_flight: int, steps: int) -> None:
    """Answer each POST /generate after the time that its sample's tokens take; runs in a process of its own."""
    lengths, answer_bytes = spread(0, in_flight * (steps + 1)), canned(64)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            if ids := json.loads(request).get("input_ids"):  # else it ends what runs, and nothing does
                await asyncio.sleep(lengths[ids[0]] * HTTP_TOKEN_S)
            writer.write(answer_bytes)
            await writer.drain()
        writer.close()

    run_server(answer, port_to)


async def no_time(group: Group) -> None:
    """A reward that takes none."""
    for sample in group:
        sample.score = Score.scored(float(sample.sample_id % 2))


@dataclass(frozen=True)
class Mode:
    """A way of filling batches."""

    name: str
    over_sampling: float = 1.0
    is_partial: bool = False
    max_staleness: int = 0
    """0: nothing is generated while the trainer trains."""


MODES = (
    Mode("synchronous"),
    Mode("over-sampling 2x", 2.0),
    Mode("over-sampling 2x, partial rollout", 2.0, is_partial=True),
    *(Mode(f"asynchronous, staleness at most {bound}", max_staleness=bound) for bound in (1, 2, 4, 8)),
)


@dataclass
class Trained:
    """What the steps of a mode came to."""

    tokens: int = 0
    went_on: int = 0
    """Samples with tokens of different weights."""
    staleness: int = 0
    """Versions that all tokens together were behind."""
    lost_share: float = 0.0
    """Of the tokens that were generated, those for nobody."""

    def add(self, filled: Filled, version: int) -> None:
        """Count a batch."""
        samples = [sample for group in filled.kept for sample in group]
        self.tokens += sum(len(sample.tokens) for sample in samples)
        self.went_on += sum(sample.weight_versions[0] != sample.weight_versions[-1] for sample in samples)
        self.staleness += sum(version - own for sample in samples for own in sample.weight_versions)


async def steps_of(mode: Mode, steps: int, slots: int) -> Trained:
    """Fill a batch, train for `TRAIN_S`, and again."""
    engine = SimulatedEngine(slots, long_tailed(400, 1.0), token_s=TOKEN_S)
    source, buffer = Endless(), Buffer(pop_first, keeps_partial=mode.is_partial, continues=True)
    trained = Trained()
    how = FillSettings(32, int(32 * max(mode.over_sampling, 1 + mode.max_staleness)), max_finished=1 << 30)
    make = partial(
        produce, generate=single_turn, engine=Gate(engine, 1 << 20), score=no_time, sampling=SamplingParams(MAX_TOKENS)
    )
    stream = Stream(source, buffer, make, None, how, max_staleness=mode.max_staleness, num_steps=steps)
    for version in range(steps):
        engine.serve(version)
        if mode.max_staleness:
            filled = await stream.batch(version, version)
        else:
            left = (steps - version) * how.wanted
            filled = await step(source, buffer, engine, version, replace(how, left=left), is_partial=mode.is_partial)
        trained.add(filled, version)
        await asyncio.sleep(TRAIN_S)
    kept = sum(len(sample.tokens) for group in buffer.groups for sample in group)
    trained.lost_share = (engine.made - trained.tokens - kept) / engine.made
    return trained


def show_modes(console: Console, steps: int, slots: int) -> None:
    """Seconds a step in each way of filling a batch, and how far it is from an engine that is never idle."""
    table = Table("", "s a step", "tokens a second", "of the bound", "made for nobody", "went on", "staleness, mean")
    table.title = (
        f"32 groups of {GROUP}, {slots} at once, lengths log-normal (median 400, sigma 1), {TRAIN_S:.0f} s of training "
        f"a step, {steps} steps"
    )
    bound = 0.0
    for mode in MODES:
        trained, seconds = on_turned_clock(steps_of(mode, steps, slots))
        rate = trained.tokens / seconds
        # neither is ever idle: the longer of both, and neither can begin before the other's first step
        bound = trained.tokens / (steps * max(TRAIN_S, trained.tokens / steps * TOKEN_S / slots))
        table.add_row(
            mode.name,
            f"{seconds / steps:.1f}",
            f"{rate:,.0f}",
            f"{rate / bound:.0%}",
            f"{trained.lost_share:.0%}",
            str(trained.went_on),
            f"{trained.staleness / trained.tokens:.2f}",
        )
    table.add_row("engine or trainer is never idle", f"{max(TRAIN_S, 0.0):.1f}", f"{bound:,.0f}", "100%", "", "", "")
    console.print(table)


def parse_ms() -> tuple[float, float]:
    """Milliseconds of CPU that one response of 8,000 tokens takes: the median of 101, and the worst."""
    body, taken, kept = canned(8000).partition(b"\r\n\r\n")[2], [], []
    for _ in range(101):
        started = time.process_time()
        kept.append(parse_completion(body, 0.0))
        taken.append((time.process_time() - started) * 1e3)
    return sorted(taken)[50], max(taken)


async def longest_turn(url: str, together: int, waves: int = 5) -> float:
    """Milliseconds of CPU of the longest turn of the event loop while long responses are asked for and arrive."""
    turns: list[float] = []
    is_done = False

    async def watch() -> None:
        last = time.thread_time()
        while not is_done:
            await asyncio.sleep(0)
            last, before = time.thread_time(), last
            turns.append(last - before)

    sampling = SamplingParams(MAX_TOKENS)
    async with HttpEngineClient(url, concurrency=together) as client:

        async def wave() -> None:
            await asyncio.gather(*(client.generate([1, 2, 3], sampling) for _ in range(together)))

        await wave()  # opens the connections
        watching = asyncio.create_task(watch())
        for _ in range(waves):
            await wave()
        is_done = True
        await watching
    return max(turns) * 1e3


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--in-flight", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--slots", type=int, default=256)
    options = parser.parse_args()
    allow_sockets()
    gc.freeze()  # as the rollout manager does
    console = Console()
    table = Table("at scale", "")
    for row in asyncio.run(measure_scale(options.samples, options.in_flight)):
        table.add_row(*row)
    for row in measure_ready(options.in_flight):
        table.add_row(*row)
    steps = 3
    with served(serve_engine, options.in_flight, steps) as url:
        seconds = asyncio.run(measure_http(url, options.in_flight, steps))
    table.add_row(
        f"manager and client CPU a sample over HTTP, {options.in_flight:,} in flight", f"{seconds * 1e3:.3f} ms"
    )
    median, worst = parse_ms()
    table.add_row("8,000 tokens with log-probs hold the loop for", f"{median:.1f} ms, at worst {worst:.1f}")
    with served(serve, 64, 8000) as url:
        table.add_row("64 such that arrive together: the longest turn", f"{asyncio.run(longest_turn(url, 64)):.1f} ms")
    with served(serve, 256, 64) as url:
        stock, ours = asyncio.run(measure_stock(url, 256, 64)), asyncio.run(measure_ours(url, 256, 64))
    told = "fails" if stock is None else f"{stock * 1e3:.2f} ms"
    table.add_row("CPU a request, 256 in flight: stock httpx, ours", f"{told}, {ours * 1e3:.2f} ms")
    console.print(table)
    show_modes(console, options.steps, options.slots)


if __name__ == "__main__":
    main()
