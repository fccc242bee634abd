"""The process that `slimrl.testing.question` starts: makes one plugin, tries it, and says what it saw as JSON lines."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from slimrl.errors import SlimrlError
from slimrl.registry import PluginSelection, Registry, load
from slimrl.registry.discover import Catalogue, last_line
from slimrl.testing.question import Question, Row

CHECKS_OF: Final = {
    "dynamic_filter": "slimrl.testing.dynamic_filter_checks",
    "buffer_filter": "slimrl.testing.buffer_filter_checks",
    "generator": "slimrl.testing.generator_checks",
    "advantage": "slimrl.testing.advantage_checks",
}
"""Modules with CHECKS; a reward is only observed here, `slimrl.testing.reward_checks` judges."""


def main() -> None:
    """Answer the question on stdin."""
    sys.path[:] = json.loads(sys.stdin.buffer.readline())
    question: Question = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  # from the process that started this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints is noise
    for row in answer(question):
        say(answers, row)
    say(answers, {"end": True})


def answer(question: Question) -> Iterator[Row]:
    """Everything there is to say, as it comes."""
    started = time.perf_counter()
    try:
        # Who asks has chosen among the installed plugins (-p, SLIMRL_PLUGINS); here it is what is told.
        one, everything = question.entry_point, PluginSelection()
        registry = load([one], selection=everything, warn=False) if one else Registry(Catalogue((), (), ()))
        resolved = registry.resolve(question.kind, question.reference, group=question.is_group)
        imported = time.perf_counter()
        plugin = resolved.make(question.options)
    except (Exception, SystemExit) as error:  # a plugin's edge
        yield {"problem": str(error) if isinstance(error, SlimrlError) else last_line(error)}
        return
    yield {"import_s": imported - started, "make_s": time.perf_counter() - imported}
    if question.kind == "reward":
        from slimrl.testing.observe_reward import observe

        yield from observe(plugin, question)
        return
    checks: Any = importlib.import_module(CHECKS_OF[question.kind]).CHECKS  # Any: checks of that kind
    for check in checks:
        finding = check.find(plugin)
        yield {"check": finding.check, "outcome": finding.outcome, "detail": finding.detail}


def say(stream: BinaryIO, row: Row) -> None:
    """One row, at once: what was seen is kept if the process is killed."""
    stream.write(json.dumps(row).encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    main()
