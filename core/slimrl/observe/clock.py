"""Where the time of one step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from slimrl.observe.cpu import CpuMeter
from slimrl.observe.progress import StepProgress


class StepClock:
    """Wall time by phase and CPU time of the whole process tree, from its making on."""

    def __init__(self, cpu: CpuMeter) -> None:
        self._cpu = cpu
        self._started = time.perf_counter()
        self._cpu_started = cpu.seconds()
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, progress: StepProgress) -> Iterator[None]:
        """Time one phase and show it."""
        progress.phase(name)
        started = time.perf_counter()
        yield
        self._phases[name] = time.perf_counter() - started

    def metrics(self, rollout: Mapping[str, float]) -> dict[str, float]:
        """`perf/PHASE_s`, `perf/step_s`, `perf/cpu_s` and response tokens per second of the step."""
        step_s = time.perf_counter() - self._started
        return {
            **{f"perf/{name}_s": seconds for name, seconds in self._phases.items()},
            "perf/step_s": step_s,
            "perf/cpu_s": self._cpu.seconds() - self._cpu_started,
            "perf/tokens_per_s": rollout["rollout/num_tokens"] / step_s,
        }
