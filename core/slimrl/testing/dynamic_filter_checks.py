"""What must hold for every dynamic filter."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Final

from slimrl.testing.finding import Check, Word, failure, ok, warning
from slimrl.testing.samples import make_group
from slimrl.types import Group, Verdict

Filter = Callable[[Group], Verdict]

SLOW_S: Final = 0.05
GROUPS: Final[dict[str, tuple[float | None, ...]]] = {
    "mixed": (0.0, 1.0, 0.5, 1.0),
    "all right": (1.0,) * 4,
    "all wrong": (0.0,) * 4,
    "some unscored": (0.0, None, 1.0, None),
    "all unscored": (None,) * 4,
    "of one": (1.0,),
    "of one unscored": (None,),
    "large": tuple(float(i % 7) for i in range(256)),
    "negative": (-1.0, -2.0, 3.5),
}


def _verdicts(keep: Filter, *names: str) -> list[tuple[str, Verdict]]:
    return [(name, keep(make_group(GROUPS[name], "7"))) for name in names or GROUPS]


def returns_verdicts(keep: Filter) -> Word:
    """Every group that has scores gets a verdict."""
    for name, verdict in _verdicts(keep, "mixed", "all right", "all wrong", "large", "negative"):
        if not isinstance(verdict, Verdict):
            return failure(f"of a group ({name}) it returned {type(verdict).__name__}, not Verdict(keep, reason)")
        if not isinstance(verdict.keep, bool):
            return failure(f"of a group ({name}) it returned Verdict(keep={verdict.keep!r}); keep is True or False")
    return ok()


def survives_unscored(keep: Filter) -> Word:
    """`sample.value` is None for a sample without a score."""
    _verdicts(keep, "some unscored", "all unscored", "of one unscored")
    return ok()


def survives_one(keep: Filter) -> Word:
    """n_samples_per_prompt may be 1, and one sample may be left."""
    _verdicts(keep, "of one", "of one unscored")
    return ok()


def leaves_groups_alone(keep: Filter) -> Word:
    """The group is trained on afterwards."""
    for name in GROUPS:
        group = make_group(GROUPS[name], "7")
        before = deepcopy(group)
        keep(group)
        if group != before:
            return failure(f"it changed a group ({name}); only say whether it is kept")
    return ok()


def same_twice(keep: Filter) -> Word:
    """A verdict depends on the group alone."""
    differing = [name for (name, a), (_, b) in zip(_verdicts(keep), _verdicts(keep), strict=True) if a != b]
    return warning(f"verdicts differ when asked again: {', '.join(differing)}") if differing else ok()


def names_reasons(keep: Filter) -> Word:
    """The reason becomes the end of a metric's name."""
    dropped = [(name, verdict) for name, verdict in _verdicts(keep) if not verdict.keep]
    for name, verdict in dropped:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", verdict.reason):
            return warning(
                f"it drops a group ({name}) for the reason {verdict.reason!r}; a short word_like_this becomes a metric"
            )
    return ok(", ".join(sorted({verdict.reason for _, verdict in dropped})))


def is_quick(keep: Filter) -> Word:
    """It runs on the event loop, where all generation waits for it."""
    group = make_group(GROUPS["large"], "7")
    started = time.perf_counter()
    keep(group)
    seconds = time.perf_counter() - started
    if seconds > SLOW_S:
        return warning(f"a group of 256 takes {seconds:.2f} s, and all generation waits meanwhile")
    return ok(f"{seconds * 1e3:.1f} ms for a group of 256")


CHECKS: Final[tuple[Check[Filter], ...]] = (
    Check("verdict", "it returns a Verdict for every group", returns_verdicts),
    Check("unscored", "it takes groups in which samples have no score", survives_unscored),
    Check("group_of_one", "it takes a group of one sample", survives_one),
    Check("group", "it does not change the group", leaves_groups_alone),
    Check("same_twice", "the same group gets the same verdict again", same_twice),
    Check("reason", "what it drops it drops for a short reason", names_reasons),
    Check("time", "it does not keep the event loop", is_quick),
)
