"""What must hold for every reward."""

from __future__ import annotations

import math
import pickle
import statistics
from collections.abc import Sequence
from typing import Final, Literal

from slimrl.testing.finding import Check, Word, failure, ok, warning
from slimrl.testing.malformed import malformed
from slimrl.testing.reward_trial import QUICK_S, USUAL, RewardTrial
from slimrl.types import Score

SLOW_IMPORT_S: Final = 1.0
SLOW_FACTORY_S: Final = 20.0
INLINE_S: Final = 1e-3
BLOCKED_S: Final = 0.5
BROKEN: Final = ("the reward returned", "the reward's", "the worker process", "reward '")
"""How the scorer begins when it is not the reward that speaks."""
MOST_CHARS: Final = 160
SHOWN: Final = 3
"""So many examples of a finding are shown."""


def options_travel(trial: RewardTrial) -> Word:
    """Its options are sent to worker processes."""
    pickle.loads(pickle.dumps(trial.options))  # noqa: S301  # our own bytes
    return ok()


def can_be_made(trial: RewardTrial) -> Word:
    """Makes it in a fresh process."""
    answer = trial.made
    problem = answer.one("problem")
    if problem or answer.problem:
        return failure(problem["problem"] if problem else answer.problem)
    row = answer.one("make_s")
    assert row is not None, "a process that ended well has said how long it took"
    if row["make_s"] > SLOW_FACTORY_S:
        return warning(f"its factory takes {row['make_s']:.1f} s; every worker waits for it")
    shown = "async" if trial.is_async else "sync"
    given = ", ".join(name for name in ("pure", "inline", "group") if getattr(trial.traits, name))
    return ok(f"{shown}, factory {row['make_s']:.2f} s" + (f"; {given}" if given else ""))


def answers_in_time(trial: RewardTrial) -> Word:
    """Nothing more is asked of a reward that waits for something that is not there."""
    soon_s = min(QUICK_S, trial.deadline_s / 4)
    late = [s for s in trial.golden_scores if s.status == "timeout" or (s.status == "error" and s.seconds > soon_s)]
    if len(late) < len(trial.golden_scores):
        return ok()
    return failure(
        f"none of {len(late)} samples had an outcome within {trial.deadline_s:g} s ({late[0].reason}); where it takes "
        "longer, give --rm-timeout SECONDS"
    )


def imports_quickly(trial: RewardTrial) -> Word:
    """Listing plugins imports every plugin module."""
    row = trial.made.one("import_s")
    seconds = row["import_s"] if row else 0.0
    if seconds > SLOW_IMPORT_S:
        return warning(f"importing its module takes {seconds:.1f} s; import what is large inside the factory")
    return ok(f"{seconds:.2f} s")


def golden(trial: RewardTrial) -> Word:
    """Compares outcomes with what the author expects."""
    if not trial.examples:
        unscored = [score for score in trial.golden_scores if score.status in ("error", "timeout")]
        if len(unscored) == len(USUAL):
            return warning(f"no usual sample can be scored ({unscored[0].reason}); give examples of what it scores")
        return ok("no examples given")
    pairs = zip(trial.examples, trial.golden_scores, strict=True)
    misses = [f"{example.where or 'example'}: {miss}" for example, score in pairs if (miss := example.miss(score))]
    if misses:
        return failure(f"{len(misses)} of {len(trial.examples)}: {_some(misses)}")
    return ok(f"{len(trial.examples)} examples")


def returns_outcomes(trial: RewardTrial) -> Word:
    """A number, named components, a Score or None; whatever else it returns is an error of the reward."""
    wrong = [s.reason for s in trial.golden_scores if _why(s) == "broken"]
    late = [s.reason for s in trial.golden_scores if s.status == "timeout"]
    if wrong or late:
        return failure(_some(wrong + late))
    odd = [s for s in trial.golden_scores if s.value is not None and not math.isfinite(s.value)]
    assert not odd, "the scorer lets no value through that is not finite"
    unpicked = [s for s in trial.golden_scores if s.status == "scored" and s.value is None]
    if unpicked:
        keys = ", ".join(sorted(unpicked[0].components))
        return warning(f"it returns the components {keys}; say which is trained on: reward_traits(key=...)")
    values = [s.value for s in trial.golden_scores if s.value is not None]
    return ok(f"values {min(values):g} to {max(values):g}") if values else ok("nothing scored")


def survives(name: str, trial: RewardTrial) -> Word:
    """An odd sample is scored, abstained from, or refused with RewardError, in time."""
    scores = trial.malformed_scores[name]
    late = [s for s in scores if s.status == "timeout"]
    if late:
        return failure(f"{len(late)} of {len(scores)} over the deadline: {late[0].reason}; look for what is not linear")
    if broken := [s.reason for s in scores if _why(s) == "broken"]:
        return failure(_some(broken))
    if raised := [s.reason for s in scores if _why(s) == "raised"]:
        return warning(f"{len(raised)} of {len(scores)} have no score: {raised[0][:MOST_CHARS]}; if meant: RewardError")
    refused = [s.reason for s in scores if _why(s) == "refused"]
    told = [f"{len(refused)} refused: {refused[0][:MOST_CHARS]}"] if refused else []
    return ok(", ".join([*_statuses(scores), *told]))


def same_twice(trial: RewardTrial) -> Word:
    """One sample, one process."""
    differing = [row["sample"] for row in trial.inside.all("first") if row["first"] != row["second"]]
    return _differs(trial, differing, "called again in the same process")


def same_elsewhere(trial: RewardTrial) -> Word:
    """One sample, two processes with different hash seeds: the order of a set must not matter."""
    here, there = (answer.all("first") for answer in (trial.inside, trial.inside_again))
    differing = [a["sample"] for a, b in zip(here, there, strict=False) if a["first"] != b["first"]]
    return _differs(trial, differing, "called in another process with another hash seed")


def ends_well(trial: RewardTrial) -> Word:
    """Sees that the process in which it was looked at got to its end."""
    problems = [answer.problem for answer in (trial.inside, trial.inside_again) if answer.problem]
    return failure(problems[0]) if problems else ok()


def leaves_samples_alone(trial: RewardTrial) -> Word:
    """A mix shows one sample to several rewards."""
    changed = {name for row in trial.inside.all("changed") for name in row["changed"]}
    if changed:
        return failure(f"it changes sample.{', sample.'.join(sorted(changed))}; work on a copy")
    return ok()


def result_travels(trial: RewardTrial) -> Word:
    """What it returns is kept with the sample."""
    reasons = [row["unpicklable"] for row in trial.inside.all("unpicklable") if row["unpicklable"]]
    return warning(f"{reasons[0]}; only numbers and text of it are kept") if reasons else ok()


def takes_its_time(trial: RewardTrial) -> Word:
    """Typical and 95th percentile of a call."""
    seconds = [second for row in trial.inside.all("seconds") for second in row["seconds"]]
    if not seconds:
        return warning("no call was timed")
    ordered = sorted(seconds)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    told = f"typically {_time(statistics.median(seconds))}, 95 % within {_time(p95)}"
    if p95 > trial.deadline_s / 2 and not trial.is_async:
        return warning(f"{told}; the deadline is {trial.deadline_s:g} s (--rm-timeout, or its trait timeout_s)")
    return ok(told)


def inline_is_quick(trial: RewardTrial) -> Word:
    """A reward that may run where the run waits must not keep it."""
    if not trial.traits.inline:
        return ok("it does not ask to be run inline")
    seconds = [second for row in trial.inside.all("seconds") for second in row["seconds"]]
    median = statistics.median(seconds) if seconds else 0.0
    if median > INLINE_S:
        return failure(f"a call takes {_time(median)}; inline=True is for less than {_time(INLINE_S)}")
    return ok()


def overlapping_calls(trial: RewardTrial) -> Word:
    """An async reward is asked for many samples at once on one event loop."""
    row = trial.inside.one("together")
    if row is None:
        return ok("it is not async")
    seen = row["together"]
    if seen["blocked_s"] > BLOCKED_S:
        return warning(f"it kept the event loop for {_time(seen['blocked_s'])}; an async reward must only wait there")
    if seen["differ"]:
        return _differs(trial, list(range(seen["differ"])), f"{seen['of']} samples at once")
    return ok(f"{seen['of']} at once, as one by one")


def group_arity(trial: RewardTrial) -> Word:
    """A group reward returns one outcome a sample."""
    rows = trial.inside.all("group")
    if not rows:
        return ok("it takes one sample")
    wrong = [
        row["raised"] if "raised" in row else f"{row['outcomes']} outcomes for a group of {row['group']}"
        for row in rows
        if row.get("outcomes") != row["group"]
    ]
    return failure(_some(wrong)) if wrong else ok(f"groups of {', '.join(str(row['group']) for row in rows)}")


def _malformed_checks() -> list[Check[RewardTrial]]:
    def check(name: str, what: str) -> Check[RewardTrial]:
        return Check(name, f"{what} ends in an outcome, in time", lambda trial: survives(name, trial))

    return [check(name, what) for name, (what, _) in malformed(USUAL[0].sample(0)).items()]


FATAL: Final = (
    Check("options", "its options can be sent to another process", options_travel),
    Check("factory", "it can be made in a fresh process", can_be_made),
    Check("answers", "it has an outcome for some sample in time", answers_in_time),
)
"""Nothing else is looked at where one of these fails."""

CHECKS: Final[tuple[Check[RewardTrial], ...]] = (
    Check("import", "its module imports in less than a second", imports_quickly),
    Check("golden", "the author's examples get the outcomes they should", golden),
    Check("returns", "it returns a finite number, components, a Score or None, in time", returns_outcomes),
    *_malformed_checks(),
    Check("ends", "it leaves its process running", ends_well),
    Check("same_twice", "the same sample gets the same outcome again", same_twice),
    Check("same_elsewhere", "the same sample gets the same outcome in another process", same_elsewhere),
    Check("sample", "it does not change the sample", leaves_samples_alone),
    Check("result", "what it returns can be sent to another process", result_travels),
    Check("time", "a call stays well under the deadline", takes_its_time),
    Check("inline", "if it says inline, a call takes less than a millisecond", inline_is_quick),
    Check("together", "if it is async, overlapping calls do not disturb each other", overlapping_calls),
    Check("group", "if it takes groups, it returns one outcome a sample", group_arity),
)


def _differs(trial: RewardTrial, samples: Sequence[int], when: str) -> Word:
    if not samples:
        return ok()
    told = f"{len(samples)} outcomes differ when {when}"
    if trial.traits.pure:
        return failure(f"{told}, but it says pure=True; drop that or make it so")
    return warning(f"{told}; a run of it cannot be repeated")


def _why(score: Score) -> Literal["", "refused", "raised", "broken"]:
    """Why a sample has no score: the reward said so itself (RewardError), raised something else, or broke a rule."""
    if score.status != "error":
        return ""
    if score.reason.startswith("the reward raised"):
        return "raised"
    return "broken" if score.reason.startswith(BROKEN) else "refused"


def _statuses(scores: Sequence[Score]) -> list[str]:
    counts = {status: sum(s.status == status for s in scores) for status in ("scored", "abstained")}
    return [f"{count} {status}" for status, count in counts.items() if count]


def _some(texts: Sequence[str]) -> str:
    more = f" (and {len(texts) - SHOWN} more)" if len(texts) > SHOWN else ""
    return "; ".join(text[:MOST_CHARS] for text in texts[:SHOWN]) + more


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
