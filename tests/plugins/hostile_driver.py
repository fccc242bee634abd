"""Scores lines from standard input with one reward in a child process with a deadline a line and a memory limit.

Run as a program by test_hostile_answers.py. A line is {"name", "response", "label", "metadata"}; its answer is
{"name", "verdict", "seconds"}, where a verdict is what the reward returned, "error: ..." or "killed". The child that
is killed is replaced, so that no line can spoil another's verdict.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any

from slimrl import Reward, Sample
from slimrl.registry import Options

DEADLINE_S = 5.0
MEMORY_BYTES = 2**30


def main() -> None:
    reward = importlib.import_module(sys.argv[1]).make(Options())
    reward(Sample(0, 0, 0, "", [], label="x+1", response="</think>\\boxed{1+x}"))  # what is made once is made here
    for case, (verdict, seconds) in judged(reward, map(json.loads, sys.stdin)):
        sys.stdout.write(json.dumps({"name": case["name"], "verdict": verdict, "seconds": seconds}) + "\n")


def judged(reward: Reward, cases: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], tuple[Any, float]]]:
    child, ours = started(reward)
    for case in cases:
        with contextlib.suppress(OSError):
            ours.send(case)
        result = None
        with contextlib.suppress(EOFError, OSError):
            result = ours.recv() if ours.poll(DEADLINE_S) else None
        if result is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ours.close()
            child, ours = started(reward)
        yield case, result or ("killed", DEADLINE_S)
    ours.close()
    os.waitpid(child, 0)


def started(reward: Reward) -> tuple[int, Connection]:
    ours, theirs = Pipe()
    child = os.fork()
    if child == 0:
        ours.close()
        serve(reward, theirs)
        os._exit(0)
    theirs.close()
    return child, ours


def serve(reward: Reward, cases: Connection) -> None:
    with open("/proc/self/statm") as statm:  # noqa: PTH123  # one line of the kernel's
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    with contextlib.suppress(EOFError):
        while True:
            cases.send(scored(reward, cases.recv()))


def scored(reward: Reward, case: dict[str, Any]) -> tuple[Any, float]:
    begun = time.process_time()
    sample = Sample(0, 0, 0, "", [], label=case["label"], response=case["response"], metadata=case["metadata"] or {})
    try:
        verdict = reward(sample)
    except Exception as error:
        verdict = f"error: {type(error).__name__}: {error}"[:200]
    return verdict, time.process_time() - begun


if __name__ == "__main__":
    main()
