"""Where the time of one step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from slimrl.observe.cpu import ProcessMeter
from slimrl.observe.progress import StepProgress


class StepClock:
    """Wall time by phase and CPU time of the whole process tree, from its making on."""

    def __init__(self, meter: ProcessMeter) -> None:
        self._meter = meter
        self._started = time.perf_counter()
        self._cpu_started = meter.cpu_seconds()
        self._phases: dict[str, float] = {}
        self._phase_cpu: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, progress: StepProgress) -> Iterator[None]:
        """Time one phase and show it."""
        progress.phase(name)
        started, cpu_started = time.perf_counter(), self._total_cpu()
        yield
        self._phases[name] = time.perf_counter() - started
        self._phase_cpu[name] = self._total_cpu() - cpu_started

    def _total_cpu(self) -> float:
        return sum(self._meter.cpu_seconds().values())

    def metrics(self, rollout: Mapping[str, float]) -> dict[str, float]:
        """Seconds and CPU seconds by phase, CPU seconds by role, both in all, speed, and how long the trainer waited.

        `perf/PHASE_s`, `perf/PHASE_cpu_s`, `perf/cpu_ROLE_s`, `perf/step_s`, `perf/cpu_s`, `perf/tokens_per_s` of
        responses, and `perf/trainer_idle_share` of the step, in which the trainer waited for the batch.
        """
        cpu = {role: s - self._cpu_started.get(role, 0.0) for role, s in self._meter.cpu_seconds().items()}
        step_s = time.perf_counter() - self._started
        return {
            **{f"perf/{name}_s": seconds for name, seconds in self._phases.items()},
            **{f"perf/{name}_cpu_s": seconds for name, seconds in self._phase_cpu.items()},
            "perf/step_s": step_s,
            **{f"perf/cpu_{role}_s": seconds for role, seconds in cpu.items()},
            "perf/cpu_s": sum(cpu.values()),
            "perf/trainer_idle_share": self._phases.get("generate", 0.0) / step_s,
            "perf/tokens_per_s": rollout["rollout/num_tokens"] / step_s,
        }
