"""All checks of one plugin: resolved first, then each check when it is asked for."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

from slimrl.errors import PluginError
from slimrl.registry import KINDS, Kind, Options, Registry, Resolved, load
from slimrl.target import absolute
from slimrl.testing import reward_checks
from slimrl.testing.finding import Check, Finding, Word, failure, ok
from slimrl.testing.golden import Golden, as_golden
from slimrl.testing.question import Answer, Question, ask
from slimrl.testing.reward_trial import RewardTrial
from slimrl.testing.scoring import Plugin, default_options

RESOLVES: Final = ("resolves", "the reference leads to one plugin of its kind")
CHILD_TIMEOUT_S: Final = 120.0
CHECKED_KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in get_args(Kind) if kind != "tracker")


@dataclass
class Suite:
    """The checks of one plugin. `find` runs one by its name; iterating runs them all, up to one that ends it."""

    kind: Kind
    reference: str
    examples: Sequence[Golden] = ()
    options: Options = field(default_factory=default_options)
    reward_key: str | None = None
    is_group: bool = False
    timeout_s: float | None = None
    registry: Registry = field(default_factory=lambda: load(warn=False))

    def __post_init__(self) -> None:
        self.options = self.options.with_defaults(self.registry.catalogue.option_types)
        self._found: dict[str, Finding] = {}

    @property
    def names(self) -> list[str]:
        """The checks' names, in order."""
        return [RESOLVES[0], *(check.name for check in (*self._fatal, *self._others))]

    @property
    def fatal(self) -> list[str]:
        """The checks after whose failure no other is run."""
        return [RESOLVES[0], *(check.name for check in self._fatal)]

    @cached_property
    def resolved(self) -> Resolved:
        """The plugin; PluginError."""
        return self.registry.resolve(self.kind, self.reference, group=self.is_group)

    def __iter__(self) -> Iterator[Finding]:
        for name in self.names:
            finding = self.find(name)
            yield finding
            if finding.outcome == "failure" and name in self.fatal:
                return

    def find(self, name: str) -> Finding:
        """What the check of this name finds; looked at once."""
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def blocked_by(self, name: str) -> Finding | None:
        """The failure because of which a check cannot be run."""
        for other in self.fatal:
            if other == name:
                return None
            if (finding := self.find(other)).outcome == "failure":
                return finding
        return None

    def _look(self, name: str) -> Finding:
        if name == RESOLVES[0]:
            return Finding(*RESOLVES, *_told(self._resolves()))
        check = next(check for check in (*self._fatal, *self._others) if check.name == name)
        return check.find(self)

    def _resolves(self) -> Word:
        try:
            found = self.resolved
        except PluginError as error:
            return failure(str(error))
        where = f"{found.distribution} {found.version}" if found.distribution else str(found.file)
        waits = {None: "", True: ", async", False: ", sync"}[found.is_async]
        return ok(f"{found.shape}{waits}, from {where}")

    @cached_property
    def _trial(self) -> RewardTrial:
        return RewardTrial(
            self.registry,
            self.reference,
            self.options,
            self.examples,
            self.reward_key,
            self.is_group,
            self.timeout_s,
        )

    @cached_property
    def _answer(self) -> Answer:
        return ask(Question.about(self.resolved, self.options), timeout_s=self.timeout_s or CHILD_TIMEOUT_S)

    @cached_property
    def _fatal(self) -> list[Check[Suite]]:
        if self.kind == "reward":
            return [self._of_trial(check) for check in reward_checks.FATAL]
        return [Check("factory", "it can be made in a fresh process", lambda suite: suite._made())]

    @cached_property
    def _others(self) -> list[Check[Suite]]:
        if self.kind == "reward":
            return [self._of_trial(check) for check in reward_checks.CHECKS]
        return [
            Check(check.name, check.sentence, functools.partial(_from_answer, name=check.name))
            for check in _checks_of(self.kind)
        ]

    @staticmethod
    def _of_trial(check: Check[RewardTrial]) -> Check[Suite]:
        return Check(check.name, check.sentence, lambda suite: check.look(suite._trial))

    def _made(self) -> Word:
        answer = self._answer
        if problem := answer.one("problem"):
            return failure(problem["problem"])
        row = answer.one("make_s")
        if row is None:
            return failure(answer.problem)
        return ok(f"import {row['import_s']:.2f} s, factory {row['make_s']:.2f} s")


def suite(
    kind: Kind,
    plugin: Plugin,
    *,
    golden: Sequence[object] | Path = (),
    options: Sequence[object] = (),
    reward_key: str | None = None,
    group: bool = False,
    timeout_s: float | None = None,
) -> Suite:
    """The conformance checks of a plugin, named by a reference or as the function itself.

    `golden`: examples of a reward as (response, label, expected), or a JSON lines file with these keys. `options`:
    option dataclasses instead of their defaults. `reward_key`, `group` and `timeout_s` are a run's --reward-key,
    --group-rm and --rm-timeout.
    """
    if kind not in CHECKED_KINDS:
        raise PluginError(f"there are no checks for {kind!r}; there are for {', '.join(CHECKED_KINDS)}")
    return Suite(
        kind,
        absolute(plugin) if isinstance(plugin, str) else reference_of(plugin),
        as_golden(golden),
        default_options(*options),
        reward_key,
        group,
        timeout_s,
    )


def reference_of(function: Callable[..., Any]) -> str:
    """A reference that leads to a function in another process; PluginError for one that only exists here."""
    name = getattr(function, "__qualname__", "")
    file = inspect.getsourcefile(inspect.unwrap(function)) if name else None
    if not name or "<" in name or file is None:
        raise PluginError(f"{function!r} cannot be found from another process; name a function at a module's top")
    module = sys.modules.get(function.__module__)
    is_in_package = module is not None and module.__spec__ is not None and bool(module.__package__)
    leads = is_in_package and _leads_to(function.__module__, Path(file))
    return f"{function.__module__}:{name}" if leads else f"{file}:{name}"


def _leads_to(module: str, file: Path) -> bool:
    """Whether importing a module's name anew finds the file; pytest's importlib mode gives names that nobody finds."""
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        within = spec and spec.submodule_search_locations
        found = (finder.find_spec(name, within) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        if spec is None:
            return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == file.resolve()


def _checks_of(kind: Kind) -> Sequence[Check[Any]]:  # Any: the plugin
    import importlib

    from slimrl.testing.child import CHECKS_OF

    checks: Sequence[Check[Any]] = importlib.import_module(CHECKS_OF[kind]).CHECKS
    return checks


def _from_answer(suite: Suite, name: str) -> Word:
    answer = suite._answer
    row = next((row for row in answer.all("check") if row["check"] == name), None)
    return failure(f"not seen: {answer.problem}") if row is None else Word(row["outcome"], row["detail"])


def _told(word: Word) -> tuple[Any, str]:  # Any: an Outcome
    return word.outcome, word.detail


NOUNS: Final = {kind: KINDS[kind].noun for kind in CHECKED_KINDS}
